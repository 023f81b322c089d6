"""Which thread of a process matters, and which line of it."""

from __future__ import annotations

from dataclasses import replace

from observability.fields import stack_fields
from observability.samples.threads import thread_that_matters
from observability.samples.types import Sample, WorkerView
from observability.samples.worker import read
from support.processes import VICTIMS, victim
from support.samples import DUMP, TIMER
from support.waiting import eventually
from timers.events import WorkerInfo
from timers.stacks.take import StackDump, take


def test_which_thread_matters() -> None:
    main, loader = DUMP.threads
    assert thread_that_matters(DUMP, TIMER.thread) is loader
    assert thread_that_matters(DUMP, None) is main
    other = replace(DUMP, pid=1)
    assert thread_that_matters(replace(other, threads=(loader, main)), None) is main
    assert thread_that_matters(replace(other, threads=(loader,)), None) is loader
    assert thread_that_matters(replace(other, threads=()), TIMER.thread) is None


def test_a_forked_child_that_is_stuck_in_a_library_is_not_at_its_parents_line() -> None:
    with victim("hang_forked", env={"PYTHONPATH": str(VICTIMS.parent)}) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())

        def waiting() -> StackDump | None:
            dump = take(child, timeout=30)
            calls = [frame.function for thread in dump.threads for frame in thread.frames]
            return dump if "Barrier._wait" in calls or "_wait" in calls else None

        dump = eventually(waiting, "the child is at its barrier", timeout=60)
    # Its stack has that of its parent below its own.
    inherited = str(VICTIMS / "hang_forked.py")
    assert inherited in {frame.file for frame in dump.threads[0].frames}
    fields = stack_fields(dump, None)
    assert "multiprocessing/synchronize.py" in fields["frame"]
    view = WorkerView(worker=WorkerInfo(pid=child), samples=(Sample(dump=dump),))
    assert read(view).frame == fields["frame"]
