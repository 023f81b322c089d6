"""The two clocks a timer needs, behind one small protocol so that tests can move them by hand."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "SystemClock"]


class Clock(Protocol):
    """Where the time comes from. Deadlines use only the monotonic clock; people read the other."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds of CLOCK_MONOTONIC (clock_gettime(2)), the same for all of a host."""
        ...

    def time(self) -> float:
        """Return seconds since the epoch; may be stepped at any moment."""
        ...


class SystemClock:
    """The clocks of this host."""

    def monotonic_ns(self) -> int:
        """Return CLOCK_MONOTONIC in nanoseconds."""
        return time.monotonic_ns()

    def time(self) -> float:
        """Return CLOCK_REALTIME in seconds."""
        return time.time()


SYSTEM_CLOCK = SystemClock()
