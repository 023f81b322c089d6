"""Notices when nothing of a job has moved for a long time, with no cooperation of the job.

Looks are cheap (``/proc`` and the counts of timers) and decide alone as long as anything moves;
only when they show little, stacks are taken. Names are imported from the modules that own them.
The map::

    watch.py      the thread that looks, and what is emitted
    _look.py      what the kernel has counted of a process tree at one moment
    _decide.py    from looks to "it moves" or "take samples": pure
    _judge.py     from samples to whether anybody is stuck: pure
"""
