"""How a worker that something else ended, ended: told with the scopes it was in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.waiting import eventually
from timers.events import WorkerExited
from timers.linux.process import Process

if TYPE_CHECKING:
    from support.recording import Recorder
    from support.servers import SocketPair

KERNEL = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
ENDINGS = {
    "sys.exit(0)": 0,
    "sys.exit(3)": 3,
    "os.kill(os.getpid(), 9)": -9,
    "os.kill(os.getpid(), 15)": -15,
}


def test_who_is_killed_by_somebody_else_is_told_with_scopes_and_signal(
    sockets: SocketPair, recorder: Recorder
) -> None:
    server = sockets.server(observer=recorder)
    worker = sockets.worker()
    worker.do("enter_all", ["outer", "inner"], 3600)
    eventually(lambda: server.statistics.requests == 2)
    worker.signal(signal.SIGTERM)
    exited = recorder.wait(WorkerExited, worker.pid)
    assert [info.scope_id for info, _ in exited.timers] == ["outer", "inner"]
    assert (exited.exit_signal, exited.exit_code) == (signal.SIGTERM, None)


def test_who_exits_is_told_with_its_code(sockets: SocketPair, recorder: Recorder) -> None:
    sockets.server(observer=recorder)
    worker = sockets.worker()
    worker.do("enter", "scope", 3600)
    worker.tell("exit")
    exited = recorder.wait(WorkerExited, worker.pid)
    assert (exited.exit_signal, exited.exit_code) == (None, 0)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("waited_for", [False, True], ids=["zombie", "waited for"])
def test_how_a_process_ended(ending: str, *, waited_for: bool) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", f"import os, sys; sys.stdin.read(); {ending}"],
        stdin=subprocess.PIPE,
    )
    process = Process(child.pid)
    assert process.exit_status() is None  # it runs
    assert child.stdin is not None
    child.stdin.close()
    assert process.exited(60)
    if waited_for:
        child.wait()
    status = process.exit_status()
    process.close()
    child.wait()
    if waited_for and KERNEL < (6, 15):
        assert status is None
    else:
        assert status is not None
        assert os.waitstatus_to_exitcode(status) == ENDINGS[ending] == child.returncode
