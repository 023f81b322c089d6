"""A worker's children: left alone, or ended with it when that is asked for."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest

from support.processes import victim
from support.waiting import eventually
from timers import ReapPolicy
from timers.debug_info_logging import log_debug_info_for_expired_timers
from timers.events import Outcome, ReapFailed, WorkerKilled
from timers.linux import procfs

if TYPE_CHECKING:
    from pathlib import Path

    from support.recording import Recorder
    from support.servers import FilePair

TREE = ReapPolicy(process_tree=True, grace=0.3)


def running(pid: int) -> bool:
    found = procfs.stat(pid)
    return found is not None and found.state not in "ZX"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_none_of_its_descendants_is_left(number: int, files: FilePair, recorder: Recorder) -> None:
    files.server(observer=recorder, policy=TREE)
    worker = files.worker(number)
    family = [*worker.do("family", 3), *worker.do("family", 1)]
    assert all(running(pid) for pid in family)
    worker.tell("stuck", "hang", 0.3)
    killed = recorder.wait(WorkerKilled, worker.pid)
    assert killed.outcome is Outcome.KILLED
    assert set(killed.descendants) == set(family)
    eventually(lambda: not any(running(pid) for pid in family))


def test_by_default_its_children_are_its_own_affair(files: FilePair, recorder: Recorder) -> None:
    files.server(observer=recorder)
    worker = files.worker()
    family = worker.do("family", 2)
    try:
        worker.tell("stuck", "hang", 0.3)
        killed = recorder.wait(WorkerKilled, worker.pid)
        assert worker.gone()
        assert killed.descendants == ()
        assert all(running(pid) for pid in family)
    finally:
        for pid in family:
            os.kill(pid, signal.SIGKILL)


def test_what_it_starts_in_its_last_moments_is_found_too(
    files: FilePair, recorder: Recorder, tmp_path: Path
) -> None:
    files.server(observer=recorder, policy=TREE)
    worker = files.worker(signal.SIGTERM)
    path = tmp_path / "child"
    worker.do("fork_on", int(signal.SIGTERM), str(path))  # and does not end
    worker.tell("stuck", "hang", 0.3)
    killed = recorder.wait(WorkerKilled, worker.pid)
    assert killed.outcome is Outcome.ESCALATED
    child = int(path.read_text())
    assert killed.descendants == (child,)
    eventually(lambda: not running(child))


def test_the_children_of_one_that_outlives_sigkill_are_not_left(
    files: FilePair, recorder: Recorder
) -> None:
    files.server(
        observer=recorder,
        policy=TREE,
        before_kill=partial(log_debug_info_for_expired_timers, timeout=0.5),
    )
    worker = files.worker()
    family = worker.do("family", 2)
    worker.do("allow_tracing")
    with victim("tracer", str(worker.pid)) as tracer:
        worker.tell("stuck", "hang", 0.3)
        recorder.wait(ReapFailed, worker.pid)
        eventually(lambda: not any(running(pid) for pid in family))
        tracer.kill()
        killed = recorder.wait(WorkerKilled, worker.pid)
    assert killed.outcome is Outcome.KILLED
    assert worker.gone()
