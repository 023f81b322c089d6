"""What Linux offers for other processes, and for descriptors.

The map::

    procfs.py         what /proc says about a process
    process.py        a process that cannot be mistaken for another: pid, start time, pidfd
    notes.py          what a process says of itself, in a directory of its job
    ranks.py          which rank of its job a process is
    labels.py         what a process is in its framework, and at what
    links.py          locks, pipes and sockets: who has the other end
    descriptors.py    keep some descriptors free, and one for when none is left
    owned.py          descriptors that are closed only while they are this program's own
    promptness.py     a thread that runs at once when it is due, beside busy processes
    ptrace.py         let a server read this process's stack
"""
