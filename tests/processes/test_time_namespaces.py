"""Workers whose clocks are others than the server's (time_namespaces(7)): containers, CRIU.

Their deadlines, and the start times by which they are told apart, are sent by those clocks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from support.servers import FilePair, SocketPair
from support.waiting import eventually
from timers.events import TimerExpired, WorkerKilled
from timers.linux import procfs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.recording import Recorder

OFFSETS = [(-1000, -500), (5000, 7000), (0, 3), (-100, 0)]
"""Seconds by which CLOCK_MONOTONIC and CLOCK_BOOTTIME are ahead."""


def unshare(monotonic: int, boottime: int) -> list[str]:
    return [
        *("unshare", "--time", "--fork", "--kill-child"),
        f"--monotonic={monotonic}",
        f"--boottime={boottime}",
    ]


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    """Namespaces can be made here; on a machine that says ``CI`` they have to be."""
    reason = "unshare(1) is not installed"
    if shutil.which("unshare"):
        done = subprocess.run(
            [*unshare(10, 10), "true"], capture_output=True, text=True, timeout=60, check=False
        )
        reason = "" if done.returncode == 0 else done.stderr.strip()
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(f"no time namespace can be made here: {reason}")


@pytest.fixture(params=[FilePair, SocketPair], ids=["pipe", "socket"])
def either(request: pytest.FixtureRequest) -> Iterator[FilePair | SocketPair]:
    pair: FilePair | SocketPair = request.param()
    yield pair
    pair.close()


@pytest.mark.parametrize(("monotonic", "boottime"), OFFSETS)
def test_a_deadline_is_neither_earlier_nor_later_than_the_worker_meant(
    monotonic: int, boottime: int, either: FilePair | SocketPair, recorder: Recorder
) -> None:
    server = either.server(observer=recorder, before_kill=lambda *_: None)
    worker = either._program(
        "worker", f"{either.prefix}{either.path}", 9, wrapper=unshare(monotonic, boottime)
    )
    assert procfs.clock_skew(worker.pid) == (monotonic * 10**9, boottime * 10**9)
    worker.do("enter", "long", 600)
    worker.do("pairs", "brief", 20, 30)
    worker.do("leave", "long")
    worker.do("enter", "long", 600)
    eventually(lambda: server.statistics.requests == 43)
    [running] = server.running_timers()
    assert 540 < running.remaining_seconds <= 600
    assert 0 <= running.age_seconds < 60
    worker.tell("stuck", "hang", 0.3)
    killed = recorder.wait(WorkerKilled, worker.pid)
    assert {info.scope_id for info, _ in killed.timers} == {"hang", "long"}
    assert [event.timer.scope_id for event in recorder.of(TimerExpired)] == ["hang"]
    assert sum(server.statistics.rejected.values()) == 0
    durations = server.statistics.scopes["brief"].durations
    assert (sum(durations.counts), durations.total < 60) == (20, True)


def test_a_server_in_a_namespace_watches_workers_outside(sockets: SocketPair) -> None:
    host = sockets._program(
        "server", f"{sockets.prefix}{sockets.path}", 10, wrapper=unshare(-1000, 77)
    )
    worker = sockets.worker()
    worker.do("enter", "long", 600)
    worker.do("pairs", "brief", 20, 30)
    eventually(lambda: host.do("counts")["brief"][:2] == [20, 20])
    other = sockets.worker()
    other.tell("stuck", "hang", 0.3)
    assert other.gone()
    assert worker.alive


def test_nothing_is_known_of_who_is_gone() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    assert procfs.clock_skew(process.pid) is None
    assert procfs.clock_skew(os.getpid()) == (0, 0)
