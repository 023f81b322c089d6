"""What a running job does, with nothing set up before: ``timers explain``.

Names are imported from the modules that own them. The map::

    command.py       timers explain: options, output, exit status
    job.py           sample a process tree and report, its launchers left out
    _find.py         the jobs that run on this host
    rates.py         how fast processes go, as the kernel counts
    _output.py       a report as text, as event lines or as a page
    permission.py    what it takes to read another process's stack
"""
