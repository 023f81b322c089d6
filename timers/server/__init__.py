"""The watchdog: requests in, deadlines watched, stuck workers reaped, events out.

The map::

    server.py              the public face that all servers share: start, stop, statistics
    watchdog.py            the loop under every server
    _intake.py             requests: checked against who sent them, counted, turned into timers
    _table.py              which timers run and which is due next: pure state
    _ledger.py             timers, counts and events, kept in agreement
    statistics.py          the exact counts
    roster.py              the workers of a server, held by pidfd, and their exits
    workers.py             who a worker is, and who may be reaped
    reaper.py              one stuck worker: explain, signal, confirm, escalate; the policy
    _reaping.py            the threads that reap
    event_queue.py         a bounded queue in front of whatever may block
    logging_observer.py    events through the standard logging
    torch_callback.py      events through torch's log_event callback
    file_requests.py       requests that say which signal to send, for the pipe and the socket
"""
