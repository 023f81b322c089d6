"""The ``timers`` command.

The map::

    main.py                the command line: subcommands and their help
    _options.py            the options that run and serve share, each with its variable
    _run.py                timers run: a command, with a server for what it starts
    _child.py              the command as a child process
    _supervise.py          stay with the command to its end: signals, orphans
    _end_requests.py       how insistently the command was asked to end: pure bookkeeping
    _serve.py              timers serve
    _top.py                timers top
    _client.py             ask a service for its /timers
    _check.py              timers check
    _own_process.py        what suits a process that does nothing but serve timers
    _process_logging.py    the standard logging, put on standard error
    _standard_streams.py   stand-ins for standard streams that were closed
    _sd_listen.py          the socket that systemd hands over
    _sd_notify.py          tell systemd how the service is doing
"""
