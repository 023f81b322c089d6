"""One process, read on its own: where it is, what it waits for and whether it moves.

When it waits for another of its threads, that one is read.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ._busy import refine
from ._pace import ENOUGH_SAMPLES, IDLE, Moment, compare, load
from .frames import (
    frame_line,
    innermost_own,
    is_anonymous,
    is_python,
    library_path,
    plain_file,
    plain_function,
    process_frames,
)
from .threads import (
    computes,
    gil_holder,
    judge_thread,
    lines_of_others,
    thread_that_matters,
    working_thread,
)
from .types import NOTHING_KNOWN, Pace
from .waits import Peers, Reason, Wait, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timers.stacks.take import Frame, StackDump, ThreadStack

    from .types import Descendant, Sample, Surroundings

__all__ = ["Condition", "Key", "Reading", "needs_more_samples", "read_process"]


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
_MAY_BE_FOR_A_THREAD = frozenset(
    {Wait.LOCK, Wait.FUTEX, Wait.EVENT, Wait.QUEUE, Wait.UNKNOWN, Wait.GIL}
)

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
    """The line that matters."""
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
    samples: int = 0
    """How often it was sampled."""
    gone: str = ""
    error: str | None = None

    @property
    def moves(self) -> bool:
        """Whether it, or the child it waits for, got somewhere."""
        inner = self.child_reading
        pace, wait = (inner.pace, inner.reason.wait) if inner else (self.pace, self.reason.wait)
        # Asking again for what did not come is no progress.
        return pace is Pace.SLOW or (pace is Pace.REPEATING and wait is not Wait.ASKING)

    @property
    def undecided(self) -> bool:
        """Whether nobody knows if it (or the child it waits for) gets anywhere.

        One that computes has to be sampled twice for that. One that waits is taken to go on
        waiting, unless the samples contradict that.
        """
        inner = self.child_reading or self
        if inner.condition is Condition.UNINTERRUPTIBLE:
            return inner.pace is not Pace.STUCK  # Each read of a disk passes through it.
        if inner.pace is Pace.UNKNOWN:
            return inner.condition is Condition.RUNNING or (
                inner.condition is Condition.WAITING and inner.samples > 1
            )
        return False

    @property
    def frame(self) -> str | None:
        """The line that matters: the child's, when that is to blame and has one."""
        if self.child_reading is not None and self.child_reading.own is not None:
            return frame_line(self.child_reading.own)
        return frame_line(self.own) if self.own else None


def read_process(
    samples: Sequence[Sample],
    thread: int | None = None,
    scope_id: str | None = None,
    *,
    pace: Pace = Pace.UNKNOWN,
    around: Surroundings = NOTHING_KNOWN,
) -> Reading:
    """Read one process from at least one sample of it.

    :param thread: native id of the thread that holds the timer.
    :param pace: taken when the samples do not tell.
    """
    telling = _up_to_the_telling_one(samples, thread)
    reading = _Process(telling, thread, scope_id, around).read()
    return reading if reading.pace is not Pace.UNKNOWN else replace(reading, pace=pace)


def needs_more_samples(samples: Sequence[Sample], thread: int | None = None) -> bool:
    """Whether more samples could tell if a process that computes gets anywhere.

    A loop without an end and one that is slow look alike, unless the slow one is met in several
    of the functions that it calls: that takes a dozen samples, some hundredths of a second apart.

    :param samples: at a worker or a descendant, at least one.
    :param thread: native id of the thread that holds the timer.
    """
    if len(samples) >= ENOUGH_SAMPLES:
        return False
    reading = read_process(samples, thread)
    return reading.condition is Condition.RUNNING and reading.pace is Pace.UNKNOWN


def _up_to_the_telling_one(samples: Sequence[Sample], thread: int | None) -> Sequence[Sample]:
    """Leave out last samples that tell less than those before.

    One without a stack, of a process that can go on; one that met somebody who waits and polls in
    the moment between, when most found it waiting in one place.
    """
    seen = [
        index
        for index, sample in enumerate(samples)
        if any(stack.frames for stack in sample.dump.threads)
    ]
    state = _condition(samples[-1].dump)
    if seen and not (state is not None and state.broken):
        samples = samples[: seen[-1] + 1]
    if len(samples) < 3 or not computes(samples[-1], thread):  # noqa: PLR2004  # most of 2 is both
        return samples
    waiting = [index for index, sample in enumerate(samples) if not computes(sample, thread)]
    return samples[: waiting[-1] + 1] if len(waiting) * 2 > len(samples) else samples


class _Process:
    """Several samples of one process, while they are being read."""

    def __init__(
        self,
        samples: Sequence[Sample],
        thread: int | None,
        scope_id: str | None,
        around: Surroundings,
    ) -> None:
        self.around = around
        self.samples = samples
        self.dump = samples[-1].dump
        self.thread = thread
        self.scope_id = scope_id
        self.condition = _condition(self.dump)

    def read(self) -> Reading:
        stack = thread_that_matters(self.dump, self.thread)
        if stack is None:
            return self._without_stack()
        reason = judge_thread(self.dump, stack, self.scope_id)
        holder = gil_holder(self.samples, stack)
        if holder is not None and reason.peers is not Peers.CERTAIN:
            return self._blocked_by(holder)
        if reason.wait is Wait.THREAD:
            other = working_thread(self.dump, stack)
            if other is not None:
                return self._joining(other, stack)
        return self._at(stack, reason)

    def _at(self, stack: ThreadStack, reason: Reason) -> Reading:
        """What there is to say when ``stack`` is the one that matters."""
        frames = process_frames(stack.frames)
        running = reason.wait is Wait.COMPUTE
        moments = self._moments(stack)
        pace = compare(moments)
        if self.condition is None:
            reason, pace = refine(reason, pace, moments, self.around)
            running = reason.wait is Wait.COMPUTE
        condition = self.condition or (Condition.RUNNING if running else Condition.WAITING)
        if condition.broken and pace in (Pace.UNKNOWN, Pace.SPINNING):
            pace = Pace.STUCK  # Stopped while it computed, which its stack still shows.
        key, family = _keys(frames, reason)
        others = reason.wait in _MAY_BE_FOR_A_THREAD
        return Reading(
            condition,
            reason,
            pace=pace,
            frames=frames,
            own=innermost_own(frames),
            key=key,
            family=family,
            holds_gil=stack.holds_gil and not running,
            also=lines_of_others(self.dump, stack) if others else (),
            samples=len(self.samples),
            error=self.dump.error,
        )

    def _blocked_by(self, holder: ThreadStack) -> Reading:
        reading = self._at(holder, Reason(Wait.GIL))
        # It counts as active for as long as it has the GIL; whether it computes shows in CPU time.
        used = load(self._moments(holder))
        if reading.pace is Pace.UNKNOWN and used is not None and used < IDLE:
            reading = replace(reading, pace=Pace.STUCK)
        return replace(reading, holds_gil=True)

    def _joining(self, other: ThreadStack, stack: ThreadStack) -> Reading:
        reading = self._at(other, judge_thread(self.dump, other, self.scope_id))
        line = innermost_own(process_frames(stack.frames))
        where = (frame_line(line),) if line is not None else ()
        return replace(reading, also=where + reading.also)

    def _without_stack(self) -> Reading:
        reason = judge((), self.dump.facts, is_main=True, active=False)
        key = (Condition.BLIND, reason.wait)
        condition = self.condition or Condition.BLIND
        return Reading(condition, reason, key=key, family=key, error=self.dump.error)

    def _moments(self, stack: ThreadStack) -> list[Moment]:
        # What was counted is of the thread with the timer; of others, only their process is known.
        counted = stack.thread in (self.thread or self.dump.pid, None)
        moments = []
        for sample in self.samples:
            found = next(
                (each for each in sample.dump.threads if each.thread == stack.thread), None
            )
            reason = judge_thread(sample.dump, found) if found else Reason(Wait.UNKNOWN)
            frames = process_frames(found.frames) if found else ()
            moments.append(
                Moment(
                    frames=_without_machinery(frames, reason),
                    wait=reason.wait,
                    at_seconds=sample.at_seconds,
                    cpu_seconds=sample.cpu if counted else sample.dump.facts.cpu_seconds,
                    switches=sample.switches if counted else None,
                    holds_gil=found is not None and found.holds_gil,
                    faults=sample.faults if counted else None,
                )
            )
        return moments


def _condition(dump: StackDump) -> Condition | None:
    """The state that says more than a stack does; None for an ordinary one."""
    if dump.facts.state is None and not dump.threads and "is gone" in (dump.error or ""):
        return Condition.GONE
    condition = _STATES.get(dump.facts.state or "")
    if condition is Condition.GONE and (dump.facts.threads or 0) > 1 and dump.threads:
        return None  # Only its main thread has ended.
    return condition


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
