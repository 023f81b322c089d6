"""The samples of one worker: where it is, what it waits for, whether it moves.

``types``          the data: a sample, a worker with its samples, its pace
``members``        which processes are ranks of a job, registered or not
``sample``         sample a live process; what else surrounds it
``source``         the text of a line, and the loop that it is in
``process_facts``  the files and the peers that a process has open
``frames``         frames compared without what differs by accident; whose code they are in
``threads``        which thread of a process matters: the line that matters
``waits``          what a thread waits for; ``_wait_tables`` by which signs that is recognised
``_pace``          stuck, spinning or slow, from several samples
``_busy``          works, waits by spinning or asks for ever: of a thread that is always on a CPU
``reading``        one process, read from its samples
``worker``         one worker, read together with the processes it started
"""
