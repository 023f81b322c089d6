"""The wall clock is stepped an hour under a real server, and nothing comes of it."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from support.waiting import eventually
from support.wall_clock import HOUR, WallClock, library

if TYPE_CHECKING:
    from pathlib import Path

    from support.remote import Remote
    from support.servers import FilePair


@pytest.fixture
def wall(files: FilePair, tmp_path: Path) -> WallClock:
    del files
    if library() is None:
        reason = "libfaketime is not installed: apt-get install libfaketime"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return WallClock(tmp_path / "faketimerc")


def server_under(wall: WallClock, files: FilePair) -> Remote:
    files.environment = wall.environment
    server = files.server_process()
    files.environment = {}
    return server


def step(wall: WallClock, server: Remote, offset: int) -> None:
    """Step the clock, and see that the server's process has it and keeps its monotonic one."""
    before = server.do("clocks")[1]
    wall.set(offset)
    shown, monotonic = server.do("clocks")
    assert abs(shown - time.time() - offset) < 60
    assert 0 <= monotonic - before < 60
    assert abs(monotonic - time.monotonic()) < 60


def wait_for(server: Remote, event: str, pid: int) -> dict[str, Any]:
    def find() -> list[dict[str, Any]]:
        events = server.do("events")
        return [found for found in events if (found["event"], found["pid"]) == (event, pid)]

    return eventually(find, f"{event} of {pid}", timeout=60)[0]


def two_workers(files: FilePair, server: Remote, after: float) -> list[Remote]:
    """One with our client, one with torch's kind of request, which knows only the wall clock."""
    ours, torchs = files.worker(), files.worker()
    ours.do("enter", "ours", after)
    torchs.do("send", torchs.pid, "torch's", time.time() + after, int(signal.SIGKILL))
    eventually(lambda: server.do("requests") == 2)
    return [ours, torchs]


@pytest.mark.parametrize("offset", [HOUR, -HOUR])
def test_nobody_is_killed_early(offset: int, files: FilePair, wall: WallClock) -> None:
    server = server_under(wall, files)
    workers = two_workers(files, server, after=HOUR / 2)
    step(wall, server, offset)
    last = files.worker()
    last.tell("stuck", "hang", 0.3)
    wait_for(server, "kill worker process", last.pid)
    assert [worker.alive for worker in workers] == [True, True]
    assert server.do("counts")["ours"] == [1, 0, 1, 0]
    assert server.do("counts")["torch's"] == [1, 0, 1, 0]
    step(wall, server, 0)
    other = files.worker()
    other.tell("stuck", "hang", 0.3)
    wait_for(server, "kill worker process", other.pid)
    assert [worker.alive for worker in workers] == [True, True]


@pytest.mark.parametrize("offset", [HOUR, -HOUR])
def test_nobody_is_spared(offset: int, files: FilePair, wall: WallClock) -> None:
    server = server_under(wall, files)
    workers = two_workers(files, server, after=1.0)
    step(wall, server, offset)
    for worker in workers:
        wait_for(server, "kill worker process", worker.pid)
        assert worker.gone()
        expired = wait_for(server, "timer expired", worker.pid)
        assert 0 <= expired["lateness"] < HOUR / 2
