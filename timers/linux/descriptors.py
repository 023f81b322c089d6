"""The last descriptors of this process are for what is needed for a moment only.

A server holds up to two descriptors for each worker as long as that lives, so its limit of open
files (RLIMIT_NOFILE) bounds how many it can have. Taking a stack and answering a scrape need some
for a moment; without them the workers that are known could not be explained any more. So nothing
that stays open is made of the last ones.
"""

from __future__ import annotations

import resource

__all__ = ["is_reserved"]

_MOST = 64
"""Enough for the stacks that are taken at the same time, each by a subprocess with its pipes."""


def is_reserved(descriptor: int) -> bool:
    """Whether ``descriptor`` is among the last 64 (of few: the last quarter) that there can be.

    The kernel gives the lowest free number (open(2)): when it gives one of the last, nearly all
    others are in use. The limit is asked for each time, since it may be changed. Safe from any
    thread.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return False
    return descriptor >= limit - min(_MOST, limit // 4)
