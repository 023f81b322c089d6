"""What one sample of one worker shows: frames, threads, waits, pace, facts.

The map::

    worker.py           one worker with the processes that it started
    sample.py           take one sample of a live process
    reading.py          read it: where the process is, what it waits for, whether it moves
    waits.py            what a thread waits for
    frames.py           frames without what differs by accident
    process_facts.py    what a stuck process has open
    _pace.py            stuck, spinning or slow, by several samples
    _threads.py         which thread of a process matters
    _wait_tables.py     the tables by which a wait is recognised
"""
