"""Whether the watchdog does its work.

Decision: asked directly, by waking it up and seeing it look at its deadlines. Clocks cannot tell:
an idle watchdog sleeps, and the time of its last sweep is of a wall clock, which may be stepped.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from timers.server.server import WatchdogServer

__all__ = ["PROBE_SECONDS", "is_watching", "is_watching_async"]

PROBE_SECONDS = 3.0
"""How long the watchdog may take to answer."""
_PAUSE_SECONDS = 0.01


def is_watching(server: WatchdogServer) -> bool:
    """Whether the loop of ``server`` answers within :data:`PROBE_SECONDS`; waits for that."""
    answered, late = _probe(server)
    while not answered():
        if late():
            return False
        time.sleep(_PAUSE_SECONDS)
    return True


async def is_watching_async(server: WatchdogServer) -> bool:
    """The same for coroutines."""
    answered, late = _probe(server)
    while not answered():
        if late():
            return False
        await asyncio.sleep(_PAUSE_SECONDS)
    return True


def _probe(server: WatchdogServer) -> tuple[Callable[[], bool], Callable[[], bool]]:
    statistics = server.statistics
    before = statistics.last_sweep
    deadline = time.monotonic() + PROBE_SECONDS
    server.wake()
    return lambda: statistics.last_sweep != before, lambda: time.monotonic() > deadline
