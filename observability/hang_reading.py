"""One worker, read on its own: where it is, what it waits for and whether it moves.

When it waits for another of its threads or for a process that it started, that one is read.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .fields import frame_line
from .hang_frames import (
    innermost_own,
    is_anonymous,
    is_own,
    is_python,
    library_path,
    plain_file,
    plain_function,
    process_frames,
)
from .hang_pace import IDLE, Moment, compare, load
from .hang_types import Pace
from .hang_waits import Peers, Reason, Wait, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timers.stacks import Frame, StackDump, ThreadStack

    from .hang_input import Descendant, Look, WorkerView

__all__ = ["Condition", "Reading", "read"]


class Condition(enum.Enum):
    """What state the process is in; the value is how a sentence goes on after "it"."""

    RUNNING = "runs"
    WAITING = "waits"
    STOPPED = "is stopped"
    TRACED = "is held by a debugger"
    UNINTERRUPTIBLE = "is in an uninterruptible wait (state D)"
    GONE = "has ended"
    BLIND = "has no stack that could be read"

    @property
    def broken(self) -> bool:
        """Whether it cannot go on by itself, whatever its stack says."""
        return self in _BROKEN


_BROKEN = frozenset({Condition.STOPPED, Condition.TRACED, Condition.GONE})
_STATES = {
    "stopped": Condition.STOPPED,
    "traced": Condition.TRACED,
    "zombie": Condition.GONE,
    "dead": Condition.GONE,
    "uninterruptible": Condition.UNINTERRUPTIBLE,
}
_HELPERS = ("multiprocessing/resource_tracker.py", "multiprocessing/forkserver.py")

Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What is to be known about one worker (or one descendant of one)."""

    condition: Condition
    reason: Reason = Reason(Wait.UNKNOWN)  # noqa: RUF009  # a NamedTuple, which is immutable
    pace: Pace = Pace.UNKNOWN
    frames: tuple[Frame, ...] = ()
    """Of the thread that matters, innermost first."""
    own: Frame | None = None
    """The line to look at."""
    key: Key = ()
    """Equal for workers in the same place."""
    family: Key = ()
    """Equal for workers in the same function, which may be at different lines of it."""
    holds_gil: bool = False
    also: tuple[str, ...] = ()
    child: Descendant | None = None
    """The descendant that is to blame."""
    child_reading: Reading | None = None
    idle_children: bool = False
    """Whether it waits for processes that wait for work themselves."""
    looks: int = 0
    """How often it was looked at."""
    gone: str = ""
    error: str | None = None

    @property
    def moves(self) -> bool:
        """Whether it, or the child it waits for, got somewhere."""
        inner = self.child_reading
        return (inner.pace if inner else self.pace) in (Pace.SLOW, Pace.REPEATING)

    @property
    def undecided(self) -> bool:
        """Whether nobody knows if it (or the child it waits for) gets anywhere.

        One that computes has to be looked at twice for that. One that waits is taken to go on
        waiting, unless the looks contradict that.
        """
        inner = self.child_reading or self
        if inner.condition is Condition.UNINTERRUPTIBLE:
            return inner.pace is not Pace.STUCK  # Each read of a disk passes through it.
        if inner.pace is Pace.UNKNOWN:
            return inner.condition is Condition.RUNNING or (
                inner.condition is Condition.WAITING and inner.looks > 1
            )
        return False

    @property
    def frame(self) -> str | None:
        """The line to look at: the child's, when that is to blame and has one."""
        if self.child_reading is not None and self.child_reading.own is not None:
            return frame_line(self.child_reading.own)
        return frame_line(self.own) if self.own else None


def read(view: WorkerView) -> Reading:
    """Read one worker."""
    if view.gone is not None or view.dump is None:
        last = _read_looks(view.looks, view.thread, view.scope_id) if view.looks else None
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
    reading = _read_looks(view.looks, view.thread, view.scope_id, pace=view.pace)
    if reading.condition in (Condition.WAITING, Condition.BLIND) and view.descendants:
        return _blame_child(reading, view.descendants)
    return reading


def _read_looks(
    looks: Sequence[Look],
    thread: int | None,
    scope_id: str | None,
    *,
    pace: Pace = Pace.UNKNOWN,
) -> Reading:
    reading = _read_stacks(looks, thread, scope_id)
    return reading if reading.pace is not Pace.UNKNOWN else replace(reading, pace=pace)


def _read_stacks(looks: Sequence[Look], thread: int | None, scope_id: str | None) -> Reading:
    looks = _up_to_the_telling_one(looks, thread)
    dump = looks[-1].dump
    stack = _thread_that_matters(dump, thread)
    condition = _STATES.get(dump.facts.state or "")
    if condition is Condition.GONE and (dump.facts.threads or 0) > 1 and dump.threads:
        condition = None  # Only its main thread has ended.
    if dump.facts.state is None and not dump.threads and "is gone" in (dump.error or ""):
        condition = Condition.GONE
    if stack is None:
        return _without_stack(dump, condition)
    blocker = _gil_holder(looks, stack)
    frames = process_frames(stack.frames)
    reason = _judge(dump, stack, frames, scope_id)
    if blocker is not None and reason.peers is not Peers.CERTAIN:
        reading = _assemble(
            looks, blocker, process_frames(blocker.frames), Reason(Wait.GIL), condition
        )
        # It counts as active for as long as it has the GIL; whether it computes shows in CPU time.
        idle = load(_moments(looks, blocker))
        if reading.pace is Pace.UNKNOWN and idle is not None and idle < IDLE:
            reading = replace(reading, pace=Pace.STUCK)
        return replace(reading, holds_gil=True)
    if reason.wait is Wait.THREAD and (other := _joined_thread(dump, stack)) is not None:
        joining, stack, frames = frames, other, process_frames(other.frames)
        inner = _judge(dump, stack, frames, scope_id)
        reading = _assemble(looks, stack, frames, inner, condition)
        line = innermost_own(joining)
        more = (frame_line(line),) if line is not None else ()
        return replace(reading, also=more + reading.also)
    return _assemble(looks, stack, frames, reason, condition)


def _up_to_the_telling_one(looks: Sequence[Look], thread: int | None) -> Sequence[Look]:
    """Leave out a last look that met somebody who waits and polls in the moment between.

    When most looks found it waiting in one place, that place tells more.
    """
    if len(looks) < 3 or not _computes(looks[-1], thread):  # noqa: PLR2004  # most of 2 is both
        return looks
    waiting = [index for index, look in enumerate(looks) if not _computes(look, thread)]
    return looks[: waiting[-1] + 1] if len(waiting) * 2 > len(looks) else looks


def _computes(look: Look, thread: int | None) -> bool:
    stack = _thread_that_matters(look.dump, thread)
    if stack is None:
        return False
    reason = _judge(look.dump, stack, process_frames(stack.frames), None)
    return reason.wait is Wait.COMPUTE


def _assemble(
    looks: Sequence[Look],
    stack: ThreadStack,
    frames: tuple[Frame, ...],
    reason: Reason,
    condition: Condition | None,
) -> Reading:
    dump = looks[-1].dump
    running = reason.wait is Wait.COMPUTE
    if condition is None:
        condition = Condition.RUNNING if running else Condition.WAITING
    key, family = _keys(frames, reason)
    own = innermost_own(frames)
    pace = compare(_moments(looks, stack))
    if condition.broken and pace in (Pace.UNKNOWN, Pace.SPINNING):
        pace = Pace.STUCK  # Stopped while it computed, which its stack still shows.
    return Reading(
        condition,
        reason,
        pace=pace,
        frames=frames,
        own=own,
        key=key,
        family=family,
        holds_gil=stack.holds_gil and not running,
        also=_other_threads(dump, stack, reason),
        looks=len(looks),
        error=dump.error,
    )


def _without_stack(dump: StackDump, condition: Condition | None) -> Reading:
    reason = judge((), dump.facts, is_main=True, active=False)
    key = (Condition.BLIND, reason.wait)
    return Reading(condition or Condition.BLIND, reason, key=key, family=key, error=dump.error)


def _thread_that_matters(dump: StackDump, thread: int | None) -> ThreadStack | None:
    stacks = [stack for stack in dump.threads if stack.frames]
    for wanted in (thread, dump.pid):
        for stack in stacks:
            if wanted is not None and stack.thread == wanted:
                return stack
    return next((stack for stack in stacks if stack.name == "MainThread"), None) or next(
        iter(stacks), None
    )


def _judge(
    dump: StackDump, stack: ThreadStack, frames: Sequence[Frame], scope_id: str | None
) -> Reason:
    is_main = stack.thread == dump.pid
    return judge(frames, dump.facts, is_main=is_main, active=stack.active, scope_id=scope_id)


def _gil_holder(looks: Sequence[Look], stack: ThreadStack) -> ThreadStack | None:
    """Another thread that had the GIL at every look: nobody else in the process gets to run."""
    if stack.holds_gil or len(looks) < 2:  # noqa: PLR2004  # threads take turns: one look is chance
        return None
    holders = [
        next((other for other in look.dump.threads if other.holds_gil), None) for look in looks[-2:]
    ]
    first, last = holders
    if first is None or last is None or first.thread != last.thread:
        return None
    return last if first.frames[:1] == last.frames[:1] and last.thread != stack.thread else None


def _joined_thread(dump: StackDump, stack: ThreadStack) -> ThreadStack | None:
    """The thread that is waited for: the first one that is busy with the job's own code."""
    return next((other for other in dump.threads if other is not stack and _works(other)), None)


def _works(stack: ThreadStack) -> bool:
    """Whether a thread is inside the job's own code, and not an idle one of a pool."""
    return any(is_own(frame) for frame in process_frames(stack.frames))


def _other_threads(dump: StackDump, stack: ThreadStack, reason: Reason) -> tuple[str, ...]:
    if reason.wait not in (Wait.LOCK, Wait.FUTEX, Wait.EVENT, Wait.QUEUE, Wait.UNKNOWN, Wait.GIL):
        return ()
    others = [other for other in dump.threads if other is not stack and _works(other)]
    lines = (innermost_own(process_frames(other.frames)) for other in others[:3])
    return tuple(frame_line(line) for line in lines if line is not None)


def _moments(looks: Sequence[Look], stack: ThreadStack) -> list[Moment]:
    moments = []
    for look in looks:
        found = next((each for each in look.dump.threads if each.thread == stack.thread), None)
        frames = process_frames(found.frames) if found else ()
        reason = _judge(look.dump, found, frames, None) if found else Reason(Wait.UNKNOWN)
        moments.append(
            Moment(
                _without_machinery(frames, reason),
                reason.wait,
                look.at_seconds,
                look.cpu,
                look.switches,
            )
        )
    return moments


def _without_machinery(frames: Sequence[Frame], reason: Reason) -> tuple[Frame, ...]:
    python = [frame for frame in frames if is_python(frame.file)]
    return tuple(python[reason.machinery :]) or tuple(python)


def _keys(frames: Sequence[Frame], reason: Reason) -> tuple[Key, Key]:
    """Where it is, and in which function.

    The lines of libraries are left out, and those of code that runs: they change all the time.
    """
    exact: list[object] = [reason.wait, reason.operation]
    rough: list[object] = [reason.wait, reason.operation]
    for frame in _without_machinery(frames, reason):
        if is_anonymous(frame):
            continue
        call = (plain_file(frame.file), plain_function(frame.function))
        noisy = reason.wait is Wait.COMPUTE or library_path(frame.file) is not None
        exact.append(call if noisy else (*call, frame.line))
        rough.append(call)
    return tuple(exact), tuple(rough)


# -- descendants ---------------------------------------------------------------------------------

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


def _blame_child(reading: Reading, descendants: Sequence[Descendant]) -> Reading:
    if reading.reason.wait not in _LOOKS_LIKE_A_CHILD or reading.reason.peers is Peers.CERTAIN:
        return reading
    read_ones = [
        (child, _read_looks(child.looks, None, None, pace=child.pace))
        for child in descendants
        if child.looks and not _is_helper(child)
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
        for stack in child.looks[-1].dump.threads[:1]
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
