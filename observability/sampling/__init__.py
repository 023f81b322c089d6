"""Take samples of live processes: who is part of a job, where each is, what it is blocked on.

The map::

    survey.py           sample all workers of this host within one bound
    members.py          which processes are ranks of a job, registered or not
    process_facts.py    what a stuck process has open
    _blocked.py         what each worker is blocked on, and who has the other end
    _sample.py          one sample of one process, and what else surrounds it
    _instructions.py    whether a thread that runs is in the driver of a GPU
    _instruction_files.py  the program that looks
    _tasks.py           where the asyncio task is that is in a block
    _source.py          the text of a line, and the loop that it is in
"""
