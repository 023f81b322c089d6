"""Whether a worker got anywhere between the samples of it: stuck, spinning or slow.

Decision: when in doubt it moved. A worker that moves is never accused, so that a deadline that is
too short does not cost a healthy rank its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .frames import is_anonymous, plain_file, plain_function
from .types import Pace
from .waits import Wait

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timers.stacks.take import Frame

BUSY = 0.5
"""Share of a CPU from which on a thread counts as computing."""
STARVED = 0.05
"""The same for one that was runnable at every sample: others may need the CPU, too."""
IDLE = 0.05
ENOUGH_SAMPLES = 12
"""Fewer may all have met the same one of the functions that a loop calls in turn."""
SHORTEST_SECONDS = 0.2
"""CPU time is counted in hundredths of a second: over shorter spans it says nothing."""
PAUSES = 4
"""Voluntary context switches that a sample may cause itself, by pausing the process."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One sample of the thread that matters."""

    frames: tuple[Frame, ...]
    """Innermost first, without the machinery of waiting."""
    wait: Wait
    at_seconds: float
    cpu_seconds: float | None
    switches: int | None
    holds_gil: bool = False
    faults: int | None = None

    @property
    def path(self) -> tuple[tuple[str, str], ...]:
        """The functions it is in, which is what has to change for it to have moved."""
        return tuple(
            (plain_file(frame.file), plain_function(frame.function))
            for frame in self.frames
            if not is_anonymous(frame)
        )

    @property
    def lines(self) -> tuple[int, ...]:
        """The lines it is at."""
        return tuple(frame.line for frame in self.frames)


def compare(moments: Sequence[Moment]) -> Pace:
    """Tell the pace from two or more samples, the oldest first.

    Moved: the functions differ, or, for one that waits, the lines. When it did so long ago but
    not since the last but one sample, that it is stuck now must show in what the kernel counts.
    """
    seen = [moment for moment in moments if moment.frames]
    if len(seen) < 2:  # noqa: PLR2004  # it takes two to compare
        return Pace.UNKNOWN
    settled = _since_settled(seen)
    if len(settled) < 2:  # noqa: PLR2004  # as above
        return Pace.SLOW
    moved_before = len(settled) < len(seen)
    used = load(settled)
    if seen[-1].wait is Wait.COMPUTE or (used is not None and used >= BUSY):
        if moved_before:
            return Pace.SLOW
        always = all(moment.wait is Wait.COMPUTE for moment in settled)
        least = STARVED if always else BUSY
        sure = len(settled) >= ENOUGH_SAMPLES and used is not None and used >= least
        # A loop that reads, writes or logs gives up the CPU, one without an end does not.
        woke = _woke(settled) or 0
        return Pace.SPINNING if sure and woke <= PAUSES * len(settled) else Pace.UNKNOWN
    return _waiting(seen[-1].wait, used, _woke(settled), moved_before=moved_before)


def _waiting(wait: Wait, used: float | None, woke: int | None, *, moved_before: bool) -> Pace:
    if woke == 0:
        return Pace.STUCK
    if wait is Wait.SLEEP and (woke or moved_before):
        # A single sleep that does not end would not have woken up.
        return Pace.SLOW if moved_before else Pace.REPEATING
    if moved_before:
        return Pace.STUCK if not woke and used is not None and used < IDLE else Pace.SLOW
    return Pace.STUCK if used is None or used < IDLE else Pace.UNKNOWN


def _since_settled(seen: Sequence[Moment]) -> Sequence[Moment]:
    """The samples since it came to where it is."""
    last = seen[-1]
    for index in range(len(seen) - 2, -1, -1):
        moment = seen[index]
        both_wait = Wait.COMPUTE not in (moment.wait, last.wait)
        if moment.path != last.path or (both_wait and moment.lines != last.lines):
            return seen[index + 1 :]
    return seen


def load(moments: Sequence[Moment]) -> float | None:
    """Share of a CPU that was used between the first and the last sample; None when unknown."""
    first, last = moments[0], moments[-1]
    seconds = last.at_seconds - first.at_seconds
    if first.cpu_seconds is None or last.cpu_seconds is None or seconds < SHORTEST_SECONDS:
        return None
    return max(0.0, last.cpu_seconds - first.cpu_seconds) / seconds


def _woke(moments: Sequence[Moment]) -> int | None:
    first, last = moments[0].switches, moments[-1].switches
    return None if first is None or last is None else max(0, last - first)
