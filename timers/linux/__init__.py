"""What Linux says of processes, asked with the standard library alone.

The map::

    descriptors.py    the last descriptors of this process, kept for what is needed for a moment
    process.py        a process that cannot be mistaken for another: pid, start time, pidfd
    procfs.py         the facts of another process, read from /proc
    ptrace.py         let a server read this process's stack where the kernel would refuse it
"""
