"""What Linux offers for other processes, and for descriptors.

============  ============================================================================
procfs        what /proc says about a process
process       a process that cannot be mistaken for another: pid, start time, pidfd
descriptors   keep some descriptors free, and one for when none is left
owned         descriptors that are closed only while they are this program's own
ptrace        let a server read this process's stack
============  ============================================================================
"""
