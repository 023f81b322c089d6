"""One look at one worker: where it is, what it waits for, whether it moves.

``types``          the data: a look, a worker with its looks, its pace
``sample``         take a look at a live process and at what it started
``process_facts``  the files and the peers that a process has open
``frames``         frames compared without what differs by accident; whose code they are in
``threads``        which thread of a process matters: the line to look at
``waits``          what a thread waits for; ``_wait_tables`` by which signs that is recognised
``_pace``          stuck, spinning or slow, from several looks
``reading``        one process, read from its looks
``worker``         one worker, read together with the processes it started
"""
