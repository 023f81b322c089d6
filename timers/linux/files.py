"""Whether a number still is the descriptor that it was.

A program that becomes a daemon closes every descriptor, those of this package as well, and the
numbers may be of its own files later (open(2): the lowest free one).
"""

from __future__ import annotations

import os

__all__ = ["file_of"]


def file_of(fd: int) -> tuple[int, int] | None:
    """Return what a descriptor is of, as device and inode; None when it is closed.

    Says nothing of eventfd(2), epoll(7) and their like, which share one inode.
    """
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino
