"""Stand-ins for standard streams that were closed when we were started (``2>&-``)."""

from __future__ import annotations

import os

__all__ = ["keep_standard_streams"]


def keep_standard_streams() -> None:
    """Occupy descriptors 0 to 2 where they are free, with /dev/null.

    Otherwise the next file or pipe that is opened gets such a number, and what is meant for stderr
    is written into it. They are closed on exec, so a command that is started finds them as we did.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # open(2) takes the lowest free number, which is this one: all below are in use.
            os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
