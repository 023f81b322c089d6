"""A process of the same user, in the job or outside of it: whom it can have killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from support.children import FORKS, alive, waiting
from support.processes import VICTIMS, victim
from support.waiting import eventually
from timers import ReapPolicy
from timers.events import Outcome, WorkerKilled

if TYPE_CHECKING:
    from support.recording import Recorder
    from support.servers import FilePair, SocketPair

pytestmark = FORKS

ATTACKER = str(VICTIMS / "attacker.py")
NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def test_the_same_user_can_kill_the_server_and_the_next_one_is_told(
    sockets: SocketPair, recorder: Recorder
) -> None:
    worker = sockets.worker()
    first = sockets.server_process()
    worker.do("enter", "block", 3600)
    eventually(lambda: first.do("requests") == 1)
    os.kill(first.pid, signal.SIGKILL)
    assert first.gone()
    second = sockets.server(observer=recorder)
    eventually(lambda: [each.timer.scope_id for each in second.running_timers()] == ["block"])
    assert worker.alive


def test_over_the_pipe_one_process_can_have_another_of_its_user_killed(
    files: FilePair, recorder: Recorder
) -> None:
    files.server(observer=recorder)
    with waiting() as bystander, waiting() as named:
        with victim("attacker", "name_another", str(files.path), "pipe", str(named)):
            killed = recorder.wait(WorkerKilled)
        assert (killed.worker.pid, killed.outcome) == (named, Outcome.KILLED)
        assert killed.signal == signal.SIGTERM
        assert alive(bystander)


def test_under_a_run_the_pipe_reaches_nobody_outside_of_the_command(
    files: FilePair, recorder: Recorder
) -> None:
    command = files.worker()
    server = files.server(observer=recorder, policy=ReapPolicy(descendants_of=command.pid))
    with waiting() as outside:
        command.do("send", outside, "forged", time.time(), int(signal.SIGKILL))
        eventually(lambda: server.statistics.rejected["outside_job"] == 1)
        command.tell("stuck", "itself", 0.1)
        recorder.wait(WorkerKilled, command.pid)
        assert alive(outside)


@pytest.mark.usefixtures("root")
def test_over_the_pipe_a_container_can_have_a_process_outside_of_it_killed(
    files: FilePair, recorder: Recorder
) -> None:
    files.server(observer=recorder)
    with waiting() as named:
        command = [*NAMESPACE, sys.executable, ATTACKER]
        with subprocess.Popen(
            [*command, "name_another", str(files.path), "pipe", str(named)]
        ) as it:
            try:
                killed = recorder.wait(WorkerKilled)
            finally:
                it.kill()
        assert killed.worker.pid == named


@pytest.mark.usefixtures("root")
def test_over_the_socket_a_container_names_only_itself(
    sockets: SocketPair, recorder: Recorder
) -> None:
    sockets.server(observer=recorder)
    with waiting() as named:
        command = [*NAMESPACE, sys.executable, ATTACKER]
        arguments = ["name_another", str(sockets.path), "socket", str(named)]
        with subprocess.Popen([*command, *arguments]) as it:
            killed = recorder.wait(WorkerKilled)
            it.wait()
        assert killed.worker.pid not in (
            named,
            it.pid,
        )  # the child of unshare(1), as seen from here
        assert alive(named)
