"""Notice when starting a job again is no use: its workers are reaped at the same line each time."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from timers.events import Outcome, WorkerKilled

from .story import ExplainedKill

if TYPE_CHECKING:
    from collections.abc import Callable

    from timers.events import Event
    from timers.server.statistics import Statistics

__all__ = ["STEP", "GivingUp", "steps_of"]

STEP = "step"
"""The scope whose blocks are progress: automatic for torch, and as good a name for anybody else."""
_TICKS = os.sysconf("SC_CLK_TCK")


class GivingUp:
    """A sink that counts attempts whose workers were reaped at the same line, without a step.

    A worker that was started after the last expiry belongs to the next attempt, whatever launcher
    started it. Of an attempt in which several were reaped, any line counts.

    :param after: attempts in a row, at least 1.
    :param steps: returns how many steps there have been so far.
    :param give_up: called once, on this sink's thread, with the reason as a sentence.
    :param booted: returns how many seconds after the machine was started a moment of the wall
        clock was; for tests.
    """

    name = "give_up"

    def __init__(
        self,
        after: int,
        *,
        steps: Callable[[], int],
        give_up: Callable[[str], None],
        booted: Callable[[float], float] | None = None,
    ) -> None:
        self._after = after
        self._count_steps = steps
        self._give_up = give_up
        self._booted = booted or _seconds_after_boot
        self._gave_up = False
        self._attempts = 0
        """How many in a row before this one had a line in common."""
        self._common: frozenset[str] = frozenset()
        """The lines that all of them had."""
        self._lines: frozenset[str] = frozenset()
        """Of this attempt."""
        self._last_expiry: float | None = None
        self._steps = 0

    def __call__(self, event: Event) -> None:
        """Count a reap."""
        if self._gave_up or not isinstance(event, WorkerKilled):
            return
        if event.outcome is Outcome.ALREADY_GONE:
            return
        if self._is_next(event.worker.start_time):
            self._begin()
        frame = event.story.frame if isinstance(event, ExplainedKill) else None
        if frame is not None:
            self._lines |= {frame}
        # Not the end of the reap: the next worker may have been started by the time this is read.
        self._last_expiry = self._booted(event.timer.expiration_time)
        self._steps = self._count_steps()
        lines = self._lines & self._common if self._attempts else self._lines
        if lines and self._attempts + 1 >= self._after:
            self._gave_up = True
            self._give_up(_reason(self._after, min(lines)))

    def _is_next(self, start_time: int | None) -> bool:
        if self._last_expiry is None:
            return False
        return start_time is None or start_time / _TICKS > self._last_expiry

    def _begin(self) -> None:
        together = self._lines & self._common if self._attempts else self._lines
        self._attempts = self._attempts + 1 if together else 1
        self._common = together or self._lines
        self._lines = frozenset()
        if self._count_steps() > self._steps:
            self._attempts, self._common = 0, frozenset()


def _seconds_after_boot(moment: float) -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - (time.time() - moment)


def steps_of(statistics: Statistics) -> int:
    """Return how many blocks of :data:`STEP` have been entered."""
    statistics.collect()
    found = statistics.scopes.get(STEP)
    return 0 if found is None else found.acquires


def _reason(attempts: int, line: str) -> str:
    times = "once" if attempts == 1 else f"in each of {attempts} attempts in a row"
    return (
        f"gives up: a worker was reaped at {line} {times}, without a step between: to start it"
        " again is no use"
    )
