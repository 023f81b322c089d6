"""What a job gets for PyTorch's Flight Recorder: by ``timers run``, and in a worker."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from observability.cli._recorder import recorder_environment
from observability.recorder.ask import Target, ask, target_of
from observability.recorder.types import Progress
from support.command import SUPERVISED, Cli
from support.processes import VICTIMS, victim
from support.torch import require_torch
from support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from observability.recorder.types import Operation

SIZE = "TORCH_FR_BUFFER_SIZE"


def test_the_command_gets_a_recorder_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    with cli.start("run", "--http", "off", "--", *SUPERVISED, "recorder") as process:
        assert process.stdout is not None
        found = dict(process.stdout.readline().strip().split("=", 1) for _ in range(4))
        directory = found["TIMERS_RECORDER_DIR"]
        assert os.stat(directory).st_mode & 0o777 == 0o700
        assert found[SIZE] == "2000"
        assert found["TORCH_NCCL_DEBUG_INFO_TEMP_FILE"].startswith(f"{directory}/")
        pipe = found["TORCH_NCCL_DEBUG_INFO_PIPE_FILE"] + "0.pipe"
        os.mkfifo(pipe)
        process.communicate("\n", timeout=60)
    assert not os.path.exists(pipe)
    cli.assert_nothing_left()


def test_what_is_set_is_left_alone() -> None:
    names = ("TORCH_NCCL_DEBUG_INFO_PIPE_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
    given = {"TORCH_NCCL_TRACE_BUFFER_SIZE": "0", "TORCH_NCCL_ENABLE_TIMING": "0"}
    given |= dict.fromkeys(names, "/elsewhere/")
    with recorder_environment(given, timing=True) as added:
        assert set(added) == {"TIMERS_RECORDER_DIR"}
    with recorder_environment({}, timing=True) as added:
        assert added["TORCH_NCCL_ENABLE_TIMING"] == "1"
    with recorder_environment({}, timing=False) as added:
        assert "TORCH_NCCL_ENABLE_TIMING" not in added


@pytest.mark.parametrize("order", ["configure_first", "torch_first", "forked"])
def test_a_worker_that_holds_the_gil_answers(order: str, tmp_path: Path) -> None:
    require_torch()
    with victim("recorded_worker", order, env={"TIMERS_RECORDER_DIR": str(tmp_path)}) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        target = target_of(pid, 0, {"TIMERS_RECORDER_DIR": str(tmp_path)})
        assert target == Target(pid, str(tmp_path / f"{pid}.sock"))
        # Whoever waits for the operation goes on before its completion is noted, on a thread.
        eventually(lambda: the_one(target).progress is Progress.COMPLETED, "it is noted")


def the_one(target: Target) -> Operation:
    """The only operation that the worker has enqueued."""
    answer = ask([target], timeout=30)[target.pid]
    assert answer.error is None
    [group] = answer.groups
    [operation] = group.collectives
    assert (group.backend, operation.name, operation.sizes) == ("gloo", "all_reduce", ((3,),))
    return operation


def test_a_worker_with_a_server_ends_as_one_without(tmp_path: Path) -> None:
    require_torch()
    for order in ("ends", "forked_ends"):
        ran = subprocess.run(
            [sys.executable, str(VICTIMS / "recorded_worker.py"), order],
            env={**os.environ, "TIMERS_RECORDER_DIR": str(tmp_path)},
            timeout=100,
            check=False,
            capture_output=True,
        )
        assert ran.returncode == 0, ran.stderr
        assert b"ready" in ran.stdout


def test_a_socket_of_somebody_else_is_not_asked(tmp_path: Path) -> None:
    path = str(tmp_path / "1.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        server.setblocking(False)
        answer = ask([Target(os.getppid(), path)], timeout=5)[os.getppid()]
        assert answer.error is not None
        assert f"process {os.getpid()}'s" in answer.error
        connection, _ = server.accept()
        with connection:
            assert connection.recv(100) == b""


def test_who_does_not_answer_costs_the_bound_and_no_more(tmp_path: Path) -> None:
    path = str(tmp_path / "silent.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        me = os.getpid()
        answers = ask([Target(me, path), Target(2**22, str(tmp_path / "no.sock"))], timeout=0.2)
    assert answers[me].error == "no answer within 0.2 s"
    assert "ENOENT" in str(answers[2**22].error)
    assert ask([], timeout=0) == {}


def test_a_worker_of_nccl_is_asked_through_its_pipe(tmp_path: Path) -> None:
    stem = str(tmp_path / "nccl.")
    environment = {
        "TORCH_NCCL_DEBUG_INFO_PIPE_FILE": stem,
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": f"{stem}dump.",
    }
    with victim("dump_pipe", stem, "3", env={"PYTHONPATH": str(VICTIMS.parent)}) as process:
        target = target_of(process.pid, 3, environment)
        assert target is not None
        for _ in range(2):  # the file of the first request is not taken for the second's
            answer = ask([target], timeout=30)[process.pid]
            assert answer.error is None
            assert answer.groups[0].last == 26
        process.send_signal(signal.SIGSTOP)
        assert ask([target], timeout=0.2)[process.pid].error == "no answer within 0.2 s"
    assert ask([target], timeout=5)[process.pid].error
