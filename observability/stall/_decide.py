"""From looks at a job to what is to be done: nothing, take samples, or report that it moves again.

Decision: when in doubt the job moves. Reading, writing, entering or leaving a block, a process
that starts or ends, a process that computes and is woken now and then, and a thread that is woken
now and then within one write or fsync are progress. One that only computes may be at work or wait
with the CPU busy (MPI and NCCL do), and one that does nothing may be idle: that is for samples to
tell, which cost more and are therefore taken ever less often as long as they find no fault.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from timers.linux import procfs

from ._judge import Finding

if TYPE_CHECKING:
    from observability.explain.rates import Counts

    from ._look import Look

_BUSY = 0.02
"""Share of a CPU from which on a process computes; libraries that only keep a connection alive, or
watch over their own operations, take less."""
_WAKES = 1.0
"""A second. Whoever computes and waits in turns is woken more often than one that asks again."""
_CALL_WAKES = 0.2
"""A second, of one that stays in the same call. More than its samples cause by pausing it."""
_IO_BYTES = 64 * 1024
"""Between two looks. Less is a log that says that nothing happens."""
_IO_RATE = 8 * 1024
"""Bytes a second. Whoever has torch's store, and waits for the others to come to it, asks for them
a hundred times a second (``waitForWorkers`` in TCPStore.cpp): over half of this."""
_TICK_SECONDS = 1 / procfs.TICKS_PER_SECOND
"""The kernel counts whole ones: one between two looks may have been used before the first."""
_MOST_PATIENCE = 8
"""Times the bound, between two examinations of a job that computes or is idle."""
_UNSEEN = 3
"""Periods, after which this process itself was held up: nobody knows what the job did."""
_PERIODS = 10
_LONGEST_PERIOD = 30.0
_SHORTEST_PERIOD = 0.05


class Step(enum.Enum):
    """What a look leads to."""

    NOTHING = enum.auto()
    EXAMINE = enum.auto()
    """Take samples, and call :meth:`Watching.examined`."""
    MOVES_AGAIN = enum.auto()
    """A stall that was reported is over."""


def period_of(after: float) -> float:
    """Return how many seconds apart looks have to be to notice a stall of ``after`` seconds."""
    return min(_LONGEST_PERIOD, max(_SHORTEST_PERIOD, after / _PERIODS))


class Watching:
    """What is known of the progress of one job. Reads no clock: time is that of the looks.

    :param after: seconds without progress, after which a job is examined.
    """

    def __init__(self, after: float) -> None:
        self._after = after
        self._last: Look | None = None
        self._moved = 0.0
        self._busy = 0.0
        self._examined = float("-inf")
        self._patience = 1
        self.stalled = False
        """Whether a stall was reported that is not over."""
        self._busy_when_stalled = False

    def still_seconds(self, at: float) -> float:
        """Return for how long nothing has moved."""
        return at - self._moved

    def look(self, look: Look) -> Step:
        """Take note of the job as it is now, and say what to do."""
        last, self._last = self._last, look
        if last is None or not look.processes:
            self._progress(look.at)
            return self._over()
        gap = look.at - last.at
        if gap > _UNSEEN * period_of(self._after):
            # Stopped together with the job, as in a paused container, or starved.
            self._moved += gap
            self._busy += gap
            self._examined += gap
        if _has_moved(last, look):
            self._progress(look.at)
            return self._over()
        busy = _is_busy(last, look)
        if busy:
            self._busy = look.at
        if self.stalled:
            woke = busy and not self._busy_when_stalled
            return Step.EXAMINE if woke and self._is_due(look.at) else Step.NOTHING
        quiet_since = max(self._moved, self._busy)
        fell_quiet = not busy and self._examined < quiet_since
        if fell_quiet:
            return Step.EXAMINE if look.at - quiet_since >= self._after else Step.NOTHING
        return Step.EXAMINE if self._is_due(look.at) else Step.NOTHING

    def examined(self, at: float, finding: Finding) -> Step:
        """Take note of what samples have shown; whether it is a new stall shows in `stalled`."""
        self._examined = at
        if self._last is not None:
            self._last = self._last._replace(calls={})  # taking samples may have woken them
        if finding is Finding.STUCK:
            self.stalled = True
            self._busy_when_stalled = at - self._busy <= period_of(self._after)
            return Step.NOTHING
        self._patience = min(_MOST_PATIENCE, 2 * self._patience)
        if finding is Finding.MOVES:
            self._moved = at
            return self._over()
        return Step.NOTHING

    def _is_due(self, at: float) -> bool:
        return at - max(self._moved, self._examined) >= self._after * self._patience

    def _progress(self, at: float) -> None:
        self._moved = at
        self._patience = 1

    def _over(self) -> Step:
        was_stalled, self.stalled = self.stalled, False
        return Step.MOVES_AGAIN if was_stalled else Step.NOTHING


def _has_moved(last: Look, look: Look) -> bool:
    if look.blocks != last.blocks or look.python != last.python:
        return True
    if _gets_on_within_a_call(last, look):
        return True
    return any(
        _read_or_wrote(before, now) or (_load(before, now) >= _BUSY and _wakes(before, now))
        for key, now in look.processes.items()
        if (before := last.processes.get(key)) is not None
    )


def _gets_on_within_a_call(last: Look, look: Look) -> bool:
    least = max(1.0, _CALL_WAKES * (look.at - last.at))
    return any(
        now.call == before.call and now.switches - before.switches >= least
        for key, now in look.calls.items()
        if (before := last.calls.get(key)) is not None
    )


def _is_busy(last: Look, look: Look) -> bool:
    return any(
        _load(before, now) >= _BUSY
        for key, now in look.processes.items()
        if (before := last.processes.get(key)) is not None
    )


def _load(before: Counts, now: Counts) -> float:
    seconds = now.at_seconds - before.at_seconds
    return (now.cpu_seconds - before.cpu_seconds - _TICK_SECONDS) / seconds if seconds > 0 else 0.0


def _wakes(before: Counts, now: Counts) -> bool:
    if before.switches is None or now.switches is None:
        return False
    return now.switches - before.switches >= _WAKES * (now.at_seconds - before.at_seconds)


def _read_or_wrote(before: Counts, now: Counts) -> bool:
    if before.io_bytes is None or now.io_bytes is None:
        return False
    seconds = now.at_seconds - before.at_seconds
    return now.io_bytes - before.io_bytes >= max(_IO_BYTES, _IO_RATE * seconds)
