"""The samples of one worker: where it is, what it waits for, whether it moves.

``types``          the data: a sample, a worker with its samples, its pace
``sample``         sample a live process and at what it started
``process_facts``  the files and the peers that a process has open
``frames``         frames compared without what differs by accident; whose code they are in
``threads``        which thread of a process matters: the line that matters
``waits``          what a thread waits for; ``_wait_tables`` by which signs that is recognised
``_pace``          stuck, spinning or slow, from several samples
``reading``        one process, read from its samples
``worker``         one worker, read together with the processes it started
"""
