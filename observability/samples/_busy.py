"""What a thread does that is on a CPU whenever it is met: work, wait by spinning, or ask for ever.

GPUs and MPI wait with the CPU busy, a loop may ask again and again for what never comes, and a long
computation looks the same from outside. What tells them apart, in this order: C frames; the source
of the line; whether the interpreter's lock is held; whether memory comes and goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._wait_tables import MPI_CALLS
from .frames import innermost_own, plain_file, plain_function
from .types import Loop, Pace
from .waits import Peers, Reason, Wait, native_wait

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._pace import Moment
    from .types import Source, Surroundings

FAULTS_PER_SECOND = 50.0
"""From which on memory comes and goes. A loop that only asks touches none that is new."""
HOLDS_IT = 0.5
"""Share of the samples with the interpreter's lock held. Numerical work is done without it."""


def refine(
    reason: Reason, pace: Pace, moments: Sequence[Moment], around: Surroundings
) -> tuple[Reason, Pace]:
    """Say more precisely what a thread does that computes, sleeps or may wait for other ranks.

    :param reason: what its last sample says.
    :param pace: what all of its samples say.
    :param moments: those samples, the oldest first.
    """
    if reason.peers is Peers.BY_LIBRARY and _waits_for_ranks(around):
        return reason._replace(wait=Wait.COLLECTIVE, peers=Peers.CERTAIN), pace
    asks = around.source is not None and (
        around.source.loop is Loop.ASKING or _sleeps_in_c(reason, pace, around.source)
    )
    # Between its sleeps one that asks is met wherever the kernel has it look.
    if asks and reason.wait in (Wait.COMPUTE, Wait.SLEEP, Wait.UNKNOWN) and _stays(moments):
        if reason.wait is not Wait.COMPUTE:
            return Reason(Wait.ASKING), Pace.REPEATING
        if not _touches_memory(moments):
            return Reason(Wait.ASKING), Pace.SPINNING
    if reason.wait is not Wait.COMPUTE or pace is Pace.SLOW:
        return reason, pace
    waits = _waits_by_spinning(moments, around)
    if waits is not None:
        return waits, Pace.STUCK if len(moments) > 1 else Pace.UNKNOWN
    works = pace is Pace.SPINNING and _works(moments, around)
    return reason, Pace.SLOW if works else pace


def _sleeps_in_c(reason: Reason, pace: Pace, source: Source) -> bool:
    """Whether a call that is no sleep sleeps time and again: it polls, as a file store does."""
    return reason.wait is Wait.SLEEP and pace is Pace.REPEATING and "sleep" not in source.text


def _waits_for_ranks(around: Surroundings) -> bool:
    found = native_wait(around.native)
    return found is not None and found.wait is Wait.COLLECTIVE


def _waits_by_spinning(moments: Sequence[Moment], around: Surroundings) -> Reason | None:
    found = native_wait(around.native)
    if found is not None and found.wait in (Wait.DEVICE, Wait.COLLECTIVE):
        return found
    text = around.source.text if around.source else ""
    free = _share_with_the_lock(moments) < HOLDS_IT
    operation = MPI_CALLS.search(text) if around.mpi else None
    if operation is not None and free:
        return Reason(Wait.COLLECTIVE, Peers.BY_NAME, operation[1])
    if around.in_driver is not None:
        return Reason(Wait.DEVICE) if around.in_driver else None
    # A guess. One that waits for its GPU takes no memory meanwhile.
    return Reason(Wait.DEVICE) if around.gpu and free and not _touches_memory(moments) else None


def _works(moments: Sequence[Moment], around: Surroundings) -> bool:
    """Whether something speaks for a long computation, and against an endless loop."""
    bounded = around.source is not None and around.source.loop is Loop.BOUNDED
    return bounded or _share_with_the_lock(moments) < HOLDS_IT or _touches_memory(moments)


def _stays(moments: Sequence[Moment]) -> bool:
    """Whether it was in one function of the job's own at all samples."""
    owns = [innermost_own(moment.frames) for moment in moments]
    return len({own and (plain_file(own.file), plain_function(own.function)) for own in owns}) == 1


def _share_with_the_lock(moments: Sequence[Moment]) -> float:
    return sum(moment.holds_gil for moment in moments) / max(1, len(moments))


def _touches_memory(moments: Sequence[Moment]) -> bool:
    known = [moment for moment in moments if moment.faults is not None]
    if len(known) < 2:  # noqa: PLR2004  # it takes two to compare
        return False
    seconds = known[-1].at_seconds - known[0].at_seconds
    faults = (known[-1].faults or 0) - (known[0].faults or 0)
    return seconds > 0 and faults / seconds > FAULTS_PER_SECOND
