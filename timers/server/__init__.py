"""The watchdog: takes requests, keeps deadlines, reaps stuck workers.

The map::

    server.py              what our own servers share: the public face of a watchdog
    watchdog.py            the loop: sleep, read, expire, hand over to the reaps
    workers.py             who the workers are, who may ever be signalled, and when they exit
    reaper.py              how a stuck worker is ended: policy, signals, confirmation
    process_tree.py        what a worker has started, ended with it
    statistics.py          every count, and everything that counts
    event_queue.py         hand events to what may block, raise or never return
    logging_observer.py    events through the standard logging
    _torch_callback.py     events through torch's ``log_event``
    request_events.py      events and counts of requests that say no more than torch's
    file_requests.py       what the servers of the pipe and the socket share
    _intake.py             requests as they come in, checked and turned into timers
    _board.py              one worker's board as the server reads it
    _board_counts.py       what a worker counted on its board, added to the server's counts
    _boards.py             the boards of all workers: when each is looked at
    _table.py              which timers run, and which is due next
    _state.py              what all of these share: lock, clock, timers, counts, observer
    _reaping.py            one thread for each reap: explain, kill, confirm, report back
"""
