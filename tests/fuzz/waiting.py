"""Wait for what mostly is there at once, thousands of times."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from timers.server.server import WatchdogServer

__all__ = ["looked_again", "soon"]

_SPINS = 300


def soon(probe: Callable[[], bool], what: str) -> None:
    """Wait as :func:`support.waiting.eventually` does, without its pauses at first."""
    for _ in range(_SPINS):
        if probe():
            return
        time.sleep(0)  # let the server's thread have the interpreter
    eventually(probe, what)


def looked_again(server: WatchdogServer) -> None:
    """Wait until ``server`` has looked at all it was sent, and would have counted too much, too."""
    _looked(server)
    _looked(server)  # the first look may have begun before


def _looked(server: WatchdogServer) -> None:
    before = server.statistics.last_sweep
    server.wake()
    soon(lambda: server.statistics.last_sweep != before, "the server looks again")
