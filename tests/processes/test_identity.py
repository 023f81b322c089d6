"""Who is reaped: the very process that sent the request, and only if it may be."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from support.processes import VICTIMS
from support.waiting import eventually
from timers import ReapPolicy
from timers.events import RequestRejected, WorkerKilled

if TYPE_CHECKING:
    from support.recording import Recorder
    from support.servers import FilePair


def recycle(scenario: str) -> dict[str, Any]:
    """Run it in a namespace of pids, where the next pid can be chosen."""
    if shutil.which("unshare") is None or os.geteuid() != 0:
        if "CI" in os.environ:
            pytest.fail("recycling a pid needs root and unshare(1), and CI has to show it")
        pytest.skip("recycling a pid needs root and unshare(1)")
    done = subprocess.run(
        [
            *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(sys.executable, VICTIMS / "recycling.py", scenario),
        ],
        stdout=subprocess.PIPE,
        check=True,
        timeout=100,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_pid_recycled_before_the_deadline_is_not_signalled() -> None:
    found = recycle("before_the_deadline")
    assert found["alive"]
    assert found["events"] == ["worker exited"]
    assert (found["timers"], found["workers"]) == ([], 0)


def test_a_message_from_before_the_pid_was_recycled_is_refused() -> None:
    found = recycle("late_message")
    assert found["alive"]
    assert found["rejected"] == {"identity_mismatch": 1}
    assert found["events"] == ["request rejected"]


def test_a_late_message_does_not_count_for_the_successor() -> None:
    found = recycle("successor_is_a_worker")
    assert found["alive"]
    assert found["rejected"] == {"identity_mismatch": 1}
    assert found["timers"] == [f"{found['pid']} own"]
    assert found["workers"] == 1


def test_a_pid_recycled_while_the_stack_is_taken_is_not_signalled() -> None:
    found = recycle("during_the_dump")
    assert found["alive"]
    assert found["outcomes"] == ["already_gone"]
    assert found["timers"] == [f"{found['pid']} own"]
    assert found["workers"] == 1


def test_nobody_can_have_the_server_or_its_ancestors_killed(
    files: FilePair, recorder: Recorder
) -> None:
    server = files.server(observer=recorder)
    worker = files.worker()
    due = time.time() + 0.1
    for pid in (1, 0, -1, -worker.pid, os.getpid(), os.getppid()):
        worker.do("send", pid, "attack", due, int(signal.SIGKILL))
    worker.tell("stuck", "hang", 0.3)
    recorder.wait(WorkerKilled, worker.pid)
    assert server.statistics.rejected["protected_process"] == 6
    assert "attack" not in server.statistics.scopes
    assert [event.reason for event in recorder.of(RequestRejected)] == ["protected_process"]
    assert server._request_count == 1


@pytest.mark.usefixtures("root")
def test_nobody_can_have_a_process_of_another_user_killed(
    files: FilePair, recorder: Recorder
) -> None:
    server = files.server(observer=recorder)
    worker = files.worker()
    with subprocess.Popen(["sleep", "1000"], user=65534, group=65534, extra_groups=[]) as other:
        try:
            worker.do("send", other.pid, "attack", time.time() + 0.1, int(signal.SIGKILL))
            worker.tell("stuck", "hang", 0.3)
            recorder.wait(WorkerKilled, worker.pid)
            assert other.poll() is None
        finally:
            other.kill()
    [rejected] = recorder.of(RequestRejected)
    assert (rejected.reason, rejected.worker_pid) == ("other_user", other.pid)
    assert server.statistics.rejected["other_user"] == 1


def test_only_the_supervised_command_has_workers(files: FilePair, recorder: Recorder) -> None:
    command = files.worker()
    stranger = files.worker()
    server = files.server(observer=recorder, policy=ReapPolicy(descendants_of=command.pid))
    command.do("fork")
    child = files.accept()
    stranger.do("acquire", "outside", 0.1)
    eventually(lambda: server.statistics.rejected["outside_job"] == 1)
    child.tell("stuck", "inside", 0.3)
    recorder.wait(WorkerKilled, child.pid)
    assert stranger.alive
    assert "outside" not in server.statistics.scopes
    command.tell("stuck", "itself", 0.1)
    recorder.wait(WorkerKilled, command.pid)
