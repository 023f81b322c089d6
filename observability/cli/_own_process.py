"""What suits a process that does nothing but serve timers, and not one that embeds a server."""

from __future__ import annotations

import contextlib
import gc
import resource
import sys

__all__ = ["devote_process"]

_SWITCH_SECONDS = 0.0005
"""The thread that reads requests asks for the interpreter again after each packet. A thread that
computes (a scrape, a hang report) gives it away after this time; by default after 5 ms."""
_COLLECTIONS = (10_000, 50, 100)
"""Timers make no reference cycles, and looking through a million of them takes seconds, in which no
deadline is kept. All objects are looked through after 50 million more have been made."""


def devote_process() -> None:
    """Adjust this process to its work; once, before or after its threads are started.

    What it starts later inherits the limit of open files.
    """
    # Two descriptors a worker: the usual soft limit of 1024 would do for 500.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTIONS)
