"""What the samples of one worker show: where it is, what it waits for, whether it moves.

The map::

    types.py            the data: a sample, a worker with its samples, its pace
    worker.py           one worker with the processes that it started
    reading.py          one process: where it is, what it waits for, whether it moves
    threads.py          which thread of a process matters, and who has nothing to do
    waits.py            what a thread waits for
    frames.py           frames without what differs by accident; whose code they are in
    _busy.py            works, waits by spinning or asks for ever: one that is always on a CPU
    _pace.py            stuck, spinning or slow, by several samples
    _wait_tables.py     the tables by which a wait is recognised
"""
