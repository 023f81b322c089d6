"""Which job of several hosts the workers of this host belong to, as they were told."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from observability.fleet._find import find_job, is_there
from support.processes import victim
from timers.events import WorkerInfo
from timers.linux import procfs

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

TORCHRUN = {
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "TORCHELASTIC_RUN_ID": "job-7",
}


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    with victim("stuck", "sleep", env=TORCHRUN) as process:
        yield process


def known(pid: int) -> list[WorkerInfo]:
    return [WorkerInfo(pid=pid, start_time=procfs.start_time(pid))]


def test_a_job_of_two_hosts_and_how_its_worker_was_started(worker: subprocess.Popen[str]) -> None:
    job = find_job(known(worker.pid), [], timeout=10.0)
    assert job is not None
    assert job.place == ("10.0.0.1", 29500, "job-7", (4, 5, 6, 7))
    assert job.interpreter == sys.executable  # by the link in a virtual environment
    assert is_there(job)
    worker.kill()
    worker.wait()
    assert not is_there(job)


def test_a_rank_that_has_not_registered_is_found_below_its_root(
    worker: subprocess.Popen[str],
) -> None:
    job = find_job([], [os.getpid()], timeout=10.0)
    assert job is not None
    assert job.pid == worker.pid


@pytest.mark.parametrize(
    "changes",
    [
        {"LOCAL_WORLD_SIZE": "8"},
        {"LOCAL_WORLD_SIZE": ""},
        {"MASTER_ADDR": ""},
        {"MASTER_PORT": "99999"},
        {"MASTER_PORT": "-1"},
        {"RANK": "0"},
        {"WORLD_SIZE": "9" * 30},
    ],
)
def test_what_is_no_job_of_several_hosts(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    me = known(os.getpid())
    monkeypatch.setattr(procfs, "environment", lambda _pid: TORCHRUN)
    assert find_job(me, [], timeout=1.0) is not None
    monkeypatch.setattr(procfs, "environment", lambda _pid: TORCHRUN | changes)
    assert find_job(me, [], timeout=1.0) is None


def test_only_the_interpreter_of_the_same_user_is_run(
    worker: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_job(known(worker.pid), [], timeout=1.0) is not None
    monkeypatch.setattr(procfs, "owners", lambda _pid: frozenset({os.geteuid() + 1}))
    assert find_job(known(worker.pid), [], timeout=1.0) is None
