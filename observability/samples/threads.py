"""Which thread of a process matters, and what its other threads have to do with that.

Of those of a pool, too, that have nothing to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .frames import frame_line, innermost_own, is_own, process_frames, waits_for_work
from .waits import Reason, Wait, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timers.stacks.take import StackDump, ThreadStack

    from .types import Sample, WorkerView

__all__ = [
    "computes",
    "gil_holder",
    "is_idle",
    "judge_thread",
    "lines_of_others",
    "main_thread",
    "thread_that_matters",
    "working_thread",
]

MAX_LINES = 3
_OURS = "timers-"
"""How the names of this package's threads in a worker begin."""


def thread_that_matters(dump: StackDump, thread: int | None) -> ThreadStack | None:
    """The thread that holds the timer, else the main one, else any that has a stack.

    Where the main thread only waits for a pool's next piece of work, one that is in code of the job
    comes before it: Ray Train trains in another thread.
    """
    stacks = [stack for stack in dump.threads if stack.frames]
    holds = next((stack for stack in stacks if thread is not None and stack.thread == thread), None)
    if holds is not None:
        return holds
    main = main_thread(dump)
    if main is None:
        return next(iter(stacks), None)
    return (working_thread(dump, main) if waits_for_work(main.frames) else None) or main


def main_thread(dump: StackDump) -> ThreadStack | None:
    """The main thread, when it has a stack."""
    stacks = [stack for stack in dump.threads if stack.frames]
    by_number = (stack for stack in stacks if stack.thread == dump.pid)
    return next(by_number, None) or next((s for s in stacks if s.name == "MainThread"), None)


def is_idle(view: WorkerView) -> bool:
    """Whether a worker only waits for a pool's next work: no thread is in a block, or in its code.

    One with a rank is a part of its job in any case.
    """
    if view.scope_id is not None or view.worker.rank is not None or view.dump is None:
        return False
    main = main_thread(view.dump)
    if main is None or not waits_for_work(main.frames):
        return False
    return working_thread(view.dump, main) is None


def judge_thread(dump: StackDump, stack: ThreadStack, scope_id: str | None = None) -> Reason:
    """What one thread of ``dump`` waits for."""
    return judge(
        process_frames(stack.frames),
        dump.facts,
        is_main=stack.thread == dump.pid,
        active=stack.active,
        scope_id=scope_id,
    )


def computes(sample: Sample, thread: int | None) -> bool:
    """Whether the thread that matters was on a CPU."""
    stack = thread_that_matters(sample.dump, thread)
    return stack is not None and judge_thread(sample.dump, stack).wait is Wait.COMPUTE


def gil_holder(samples: Sequence[Sample], stack: ThreadStack) -> ThreadStack | None:
    """Another thread than ``stack`` that had the GIL at both of the last samples.

    While it keeps it, nobody else in the process gets to run. At one sample it may be chance:
    threads take turns.
    """
    if stack.holds_gil or len(samples) < 2:  # noqa: PLR2004  # takes two
        return None
    first, last = (
        next((other for other in sample.dump.threads if other.holds_gil), None)
        for sample in samples[-2:]
    )
    if first is None or last is None or first.thread != last.thread:
        return None
    return last if first.frames[:1] == last.frames[:1] and last.thread != stack.thread else None


def working_thread(dump: StackDump, stack: ThreadStack) -> ThreadStack | None:
    """The first other thread that is inside the job's own code: one that ``stack`` may join."""
    return next((other for other in dump.threads if other is not stack and _works(other)), None)


def lines_of_others(dump: StackDump, stack: ThreadStack) -> tuple[str, ...]:
    """Where the other threads are that are inside the job's own code."""
    others = [other for other in dump.threads if other is not stack and _works(other)]
    lines = (innermost_own(process_frames(other.frames)) for other in others[:MAX_LINES])
    return tuple(frame_line(line) for line in lines if line is not None)


def _works(stack: ThreadStack) -> bool:
    if (stack.name or "").startswith(_OURS):
        return False  # In a source tree it looks like code of the job.
    return any(is_own(frame) for frame in process_frames(stack.frames))
