"""The ``timers`` command.

The map::

    main.py                the command line: subcommands and their help
    _options.py            the options that run and serve share, each with its variable
    _run.py                timers run: a command, with a server for what it starts
    _recorder.py           what a job needs so that its flight recorders can be asked
    _child.py              the command as a child process
    _supervise.py          stay with the command to its end: signals, orphans
    _end_requests.py       how insistently the command was asked to end: pure bookkeeping
    _serve.py              timers serve
    _top.py                timers top: ask a service for its /timers, show the table
    _check.py              timers check
    _own_process.py        a process that is ours alone: streams, limits, logging
    _systemd.py            what systemd and a service say to each other
"""
