"""One worker with the processes it started: where it is, or which of them it waits for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .frames import frame_line, is_own, library_path
from .reading import Condition, Reading, read_process
from .types import Pace
from .waits import Peers, Wait

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .types import Descendant, WorkerView

__all__ = ["read"]

_HELPERS = ("multiprocessing/resource_tracker.py", "multiprocessing/forkserver.py")
_LOOKS_LIKE_A_CHILD = frozenset(
    {
        Wait.CHILD,
        Wait.QUEUE,
        Wait.PIPE,
        Wait.POLL,
        Wait.EVENT,
        Wait.LOCK,
        Wait.FUTEX,
        Wait.EVENT_LOOP,
        Wait.UNKNOWN,
    }
)
"""What waiting for one's own child can look like."""


def read(view: WorkerView) -> Reading:
    """Read one worker."""
    if view.gone is not None or view.dump is None:
        last = read_process(view.samples, view.thread, view.scope_id) if view.samples else None
        condition = Condition.BLIND if view.gone is None else Condition.GONE
        gone = view.gone or ""
        return Reading(
            condition,
            gone=gone,
            frames=last.frames if last else (),
            own=last.own if last else None,
            key=(condition,),
            family=(condition,),
        )
    reading = read_process(
        view.samples, view.thread, view.scope_id, pace=view.pace, around=view.surroundings
    )
    if reading.condition in (Condition.WAITING, Condition.BLIND) and view.descendants:
        return _blame_child(reading, view.descendants)
    return reading


def _blame_child(reading: Reading, descendants: Sequence[Descendant]) -> Reading:
    if reading.reason.wait not in _LOOKS_LIKE_A_CHILD or reading.reason.peers is Peers.CERTAIN:
        return reading
    read_ones = [
        (child, read_process(child.samples, pace=child.pace))
        for child in descendants
        if child.samples and not _is_helper(child)
    ]
    # An idle one waits for work from its parent, which says nothing against it.
    busy = [(child, found) for child, found in read_ones if not _is_idle(found)]
    if not busy:
        return replace(reading, idle_children=bool(read_ones))
    parents = {child.parent for child, _ in busy}
    child, found = min(busy, key=lambda pair: (_gravity(pair[1]), pair[0].pid in parents))
    if reading.reason.wait is not Wait.CHILD and found.condition is Condition.BLIND:
        return reading  # It is not certain that it waits for a child at all.
    line = frame_line(reading.own) if reading.own is not None else None
    also = tuple(each for each in (line,) if each) if found.own is not None else ()
    return replace(reading, child=child, child_reading=found, also=also + reading.also)


def _is_helper(child: Descendant) -> bool:
    return any(
        library_path(frame.file) in _HELPERS
        for stack in child.samples[-1].dump.threads[:1]
        for frame in stack.frames[-3:]
    )


def _is_idle(reading: Reading) -> bool:
    if reading.condition not in (Condition.WAITING, Condition.RUNNING):
        return False
    innermost = reading.frames[: reading.reason.machinery + 1]
    return reading.reason.wait is Wait.QUEUE or (
        reading.reason.wait in (Wait.PIPE, Wait.POLL, Wait.EVENT, Wait.LOCK)
        and not any(is_own(frame) for frame in innermost)
    )


def _gravity(reading: Reading) -> int:
    """The worse off, the lower."""
    if reading.condition.broken or reading.condition is Condition.UNINTERRUPTIBLE:
        return 0
    if reading.moves:
        return 4
    if reading.pace is not Pace.UNKNOWN:
        return 1
    return 2 if reading.condition is Condition.WAITING else 3
