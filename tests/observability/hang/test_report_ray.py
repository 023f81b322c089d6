"""Workers of Ray: those without work are no part of a hang, and a rank trains in its own thread."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from hangs.simulated import looking, view
from observability.events import HangReported
from observability.hang.report import analyse
from observability.hang.roll_call import RollCall
from observability.hang.types import Verdict
from observability.message import message
from observability.samples.threads import is_idle, thread_that_matters
from timers.events import Event, WorkerExited, WorkerInfo
from timers.stacks.take import Frame, ThreadStack

if TYPE_CHECKING:
    from observability.samples.types import WorkerView

RAY = "/opt/venv/lib/python3.12/site-packages/ray"
LOOP = (
    Frame("Worker.main_loop", f"{RAY}/_private/worker.py", 1069),
    Frame("<module>", f"{RAY}/_private/workers/default_worker.py", 323),
)
READING = (Frame("Loader.fetch", "/job/load.py", 7), *LOOP)
REPORTING = (
    Frame("Worker.get_objects", f"{RAY}/_private/worker.py", 1007),
    Frame("get", f"{RAY}/_private/worker.py", 3009),
    Frame("client_mode_hook.<locals>.wrapper", f"{RAY}/_private/client_mode_hook.py", 134),
    Frame("auto_init_wrapper", f"{RAY}/_private/auto_init_hook.py", 22),
    Frame("TrainContext.report", f"{RAY}/train/v2/_internal/execution/context.py", 474),
    Frame("report", f"{RAY}/train/v2/api/train_fn_utils.py", 125),
    Frame("training", "/job/train.py", 30),
)


def worker(pid: int, frames: tuple[Frame, ...], **options: Any) -> WorkerView:
    made = view(0, looking(pid, frames), looking(pid, frames, at=50.0), host="node", pid=pid)
    info = WorkerInfo(pid=pid, name=f"actor Loader 'number {pid}'")
    apart: dict[str, Any] = {"scope_id": None, "expired": False, **options}
    return replace(made, worker=info, **apart)


def ranked(rank: int, frames: tuple[Frame, ...], **options: Any) -> WorkerView:
    """A rank of Ray Train, which trains in another thread than its main one."""
    pid = 100 + rank
    trains = ThreadStack(frames=frames, thread=900 + rank, name="TrainingThread")
    looks = [looking(pid, LOOP, at=at, others=(trains,)) for at in (0.0, 50.0)]
    apart: dict[str, Any] = {"scope_id": None, "expired": False, **options}
    made = replace(view(rank, *looks, host="node", pid=pid), **apart)
    return replace(made, worker=replace(made.worker, name="actor RayTrainWorker"))


def test_who_waits_for_work_is_not_in_the_report() -> None:
    stuck = worker(7, READING, scope_id="Loader.fetch", expired=True, thread=7)
    report = analyse([stuck, *(worker(pid, LOOP) for pid in range(20, 30))])
    assert report.workers == 1
    assert report.sentence.startswith(
        "Actor Loader 'number 7' (pid 7 on node) overran its deadline in scope 'Loader.fetch'"
    )
    assert analyse([worker(7, LOOP)]).workers == 1


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (worker(7, LOOP), True),
        (worker(7, LOOP, scope_id="f"), False),
        (worker(7, READING), False),
        (ranked(0, REPORTING), False),
        (replace(ranked(0, REPORTING), worker=WorkerInfo(pid=100)), False),
        (worker(7, ()), False),
    ],
)
def test_idle_is_who_is_nowhere_else(other: WorkerView, expected: bool) -> None:
    assert is_idle(other) is expected


def test_a_thread_of_the_jobs_comes_before_a_main_thread_without_work() -> None:
    dump = ranked(0, REPORTING).samples[-1].dump
    found = thread_that_matters(dump, None)
    assert found is not None
    assert found.name == "TrainingThread"
    ours = ThreadStack(frames=(Frame("_keep", "/src/timers/x.py", 1),), thread=5, name="timers-x")
    found = thread_that_matters(replace(dump, threads=(ours, dump.threads[0])), None)
    assert found is not None
    assert found.name == "MainThread"


def test_ranks_that_wait_in_report_wait_for_the_one_that_does_not() -> None:
    stuck = (Frame("training", "/job/train.py", 29),)
    views = [ranked(rank, REPORTING) for rank in (0, 2, 3)]
    views.append(ranked(1, stuck, scope_id="train_step", expired=True, thread=901))
    report = analyse(views, world_size=4)
    assert report.verdict is Verdict.ONE_SUSPECT
    (suspect,) = report.suspects
    assert (suspect.rank, suspect.name) == (1, "actor RayTrainWorker")
    assert "while 3 ranks are waiting in report at /job/train.py:30 training" in report.sentence
    assert report.sentence.startswith("Rank 1, actor RayTrainWorker (pid 101 on node)")


def test_who_ray_has_ended_is_missed_by_nobody() -> None:
    emitted: list[Event] = []
    roll_call = RollCall(emitted.append, run_id="r", host="node")
    for name, rank in (("Ray worker", None), ("actor RayTrainWorker", 3), (None, None)):
        worker = WorkerInfo(pid=7, name=name, rank=rank)
        roll_call(WorkerExited(timestamp=0, worker=worker, exit_signal=9))
    kept = [each.worker for each in roll_call._gone]
    assert [(each.name, each.rank) for each in kept] == [("actor RayTrainWorker", 3), (None, None)]
    assert not any(isinstance(event, HangReported) for event in emitted)


def test_events_name_it_as_its_users_do() -> None:
    fields = {"event": "worker exited", "worker_pid": 7, "worker_name": "actor A 'x'", "host": "n"}
    assert message(fields) == "Actor A 'x' (pid 7 on n) ended."
    assert message({**fields, "rank": 2}) == "Rank 2, actor A 'x' (pid 7 on n) ended."
