"""Workers whose deadlines are a few milliseconds ahead, at full speed: nobody is taken for stuck.

``TIMERS_TEST_RACED_BLOCKS`` is how many blocks each of them enters (10,000 by default).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from support.processes import VICTIMS
from support.servers import SocketPair
from support.waiting import eventually
from timers.events import TimerExpired

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.recording import Recorder
    from timers.server.server import WatchdogServer

BLOCKS = int(os.environ.get("TIMERS_TEST_RACED_BLOCKS", "10000"))
WORKERS = 2
OVERSTAYS = 5


@pytest.fixture
def pair() -> Iterator[SocketPair]:
    pair = SocketPair()
    yield pair
    pair.close()


def racing(path: str, seed: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, VICTIMS / "racing.py", path, str(BLOCKS), str(OVERSTAYS), str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


def _is_overdue(server: WatchdogServer, pid: int) -> bool:
    running = server.running_timers()
    return any(each.worker.pid == pid and each.expired for each in running)


@pytest.mark.timeout(120 + BLOCKS // 500)
def test_no_block_that_was_left_in_time_expires_and_no_other_one_is_missed(
    pair: SocketPair, recorder: Recorder
) -> None:
    server = pair.server(observer=recorder, before_kill=lambda *_: None)
    late = 0
    with contextlib.ExitStack() as ends:
        workers = []
        for seed in range(WORKERS):
            worker = ends.enter_context(racing(str(pair.path), seed))
            ends.callback(worker.kill)
            workers.append(worker)
        for worker in workers:
            assert line(worker) == "ready"
        for worker in workers:
            for _ in range(OVERSTAYS):
                assert line(worker) == "stays"
                assert worker.stdin is not None
                eventually(partial(_is_overdue, server, worker.pid))
                worker.stdin.write("\n")
                worker.stdin.flush()
            late += json.loads(line(worker))["late"]
    expired = recorder.of(TimerExpired)
    assert WORKERS * OVERSTAYS <= len(expired) <= late
    scopes = server.statistics.scopes.values()
    assert sum(scope.acquires for scope in scopes) == WORKERS * BLOCKS
    assert sum(scope.releases for scope in scopes) == WORKERS * BLOCKS
    assert sum(scope.expirations for scope in scopes) == len(expired)
    assert sum(sum(scope.durations.counts) for scope in scopes) == WORKERS * BLOCKS
