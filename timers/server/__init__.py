"""The watchdog: takes requests, keeps deadlines, reaps stuck workers.

The map::

    server.py              what our own servers share: the public face of a watchdog
    watchdog.py            the loop: sleep, read, expire, hand over to the reaps
    workers.py             who the workers are, who may ever be signalled, and when they exit
    reaper.py              how a stuck worker is ended: policy, signals, confirmation
    process_tree.py        what a worker has started, ended with it
    statistics.py          every count, and everything that counts
    boards/                deadlines in memory that workers share with the server
    observers/             where events go
    file_requests.py       what the servers of the pipe and the socket share: torch's requests
    _intake.py             requests as they come in, checked and turned into timers
    table.py               which timers run, and which is due next
    _state.py              what all of these share: lock, clock, timers, counts, observer
    _reaping.py            one thread for each reap: explain, kill, confirm, report back
"""
