"""Servers that die, stop or come back, and paths that are taken."""

from __future__ import annotations

import signal
import stat
import time
from typing import TYPE_CHECKING

import pytest

from support.waiting import eventually
from timers import FileTimerServer
from timers.errors import NoServerError, PathOccupiedError, ServerRunningError
from timers.events import WatchdogStopped, WorkerKilled
from timers.file_based_local_timer import FileTimerClient

if TYPE_CHECKING:
    from pathlib import Path

    from support.recording import Recorder
    from support.servers import FilePair


def test_a_client_finds_the_next_server_on_the_path(files: FilePair, recorder: Recorder) -> None:
    first = files.server()
    worker = files.worker()
    worker.do("enter", "first", 3600)
    eventually(lambda: first.statistics.requests == 1)
    first.stop()
    assert not files.path.exists()
    second = files.server(observer=recorder)
    worker.do("leave", "first")
    worker.do("enter", "second", 3600)
    eventually(lambda: second.statistics.requests == 2)
    assert list(second._timers) == [(worker.pid, "second")]
    worker.tell("stuck", "hang", 0.2)
    recorder.wait(WorkerKilled, worker.pid)


def test_what_a_killed_server_left_is_taken_over(files: FilePair, recorder: Recorder) -> None:
    first = files.server_process()
    worker = files.worker()
    worker.do("enter", "before", 3600)
    eventually(lambda: first.do("requests") == 1)
    first.signal(signal.SIGKILL)
    assert first.gone()
    assert stat.S_ISFIFO(files.path.lstat().st_mode)
    server = files.server(observer=recorder)
    worker.do("enter", "after", 3600)
    eventually(lambda: server.statistics.requests == 1)
    assert stat.S_IMODE(files.path.lstat().st_mode) == 0o600
    worker.tell("stuck", "hang", 0.2)
    recorder.wait(WorkerKilled, worker.pid)
    server.stop()
    assert not files.path.exists()


def test_a_block_goes_on_when_its_server_died(files: FilePair) -> None:
    server = files.server_process()
    worker = files.worker()
    worker.do("enter", "open", 3600)
    server.signal(signal.SIGKILL)
    assert server.gone()
    worker.do("leave", "open")  # raises nothing
    with pytest.raises(AssertionError, match="NoServerError"):
        worker.do("enter", "next", 3600)
    assert worker.alive


def test_without_a_server_the_wait_is_paid_once(
    files: FilePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = FileTimerClient(files.path)
    with pytest.raises(NoServerError, match="no timer server listens"):
        client.acquire("x", time.time() + 60)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    for _ in range(5):
        with pytest.raises(BrokenPipeError):
            client.acquire("x", time.time() + 60)
    assert waits == []


def test_a_client_may_come_before_its_server(files: FilePair) -> None:
    worker = files.worker()
    worker.ask("enter", "early", 3600)
    server = files.server()
    assert worker.answer() is None
    eventually(lambda: server.statistics.requests == 1)


def test_a_stopped_server_slows_its_workers_and_loses_nothing(files: FilePair) -> None:
    server = files.server_process()
    worker = files.worker()
    worker.do("pairs", "warm", 1)
    eventually(lambda: server.do("requests") == 2)
    server.signal(signal.SIGSTOP)
    # More than the pipe holds, and the worker gets through all of it.
    assert worker.do("pairs", "many", 6_000) == 6_000
    assert worker.do("failures") == 0
    server.signal(signal.SIGCONT)
    # Blocks that came and went while nobody read may be told by their counts alone.
    eventually(lambda: server.do("counts").get("many") == [6_000, 6_000, 0, 0])
    assert server.do("counts") == {"warm": [1, 1, 0, 0], "many": [6_000, 6_000, 0, 0]}
    assert server.do("rejected") == {}
    worker.do("pairs", "after", 1_000)
    eventually(lambda: server.do("counts").get("after") == [1_000, 1_000, 0, 0])


def test_nobody_is_killed_for_the_time_its_server_was_stopped(files: FilePair) -> None:
    server = files.server_process()
    worker, last = files.worker(), files.worker()
    worker.do("enter", "short", 1.0)
    eventually(lambda: server.do("requests") == 1)
    server.signal(signal.SIGSTOP)
    worker.do("pairs", "fill", 4_000)  # the pipe is full: what follows is kept by the client
    worker.do("leave", "short")
    worker.do("enter", "next", 0.5)
    worker.do("leave", "next")
    deadline = time.monotonic() + 3.2
    eventually(lambda: time.monotonic() > deadline, "all of its deadlines have passed")
    server.signal(signal.SIGCONT)
    eventually(lambda: server.do("counts").get("next") == [1, 1, 0, 0])
    last.tell("stuck", "hang", 0.3)
    eventually(lambda: "kill worker process" in [found["event"] for found in server.do("events")])
    assert last.gone()
    assert worker.alive
    assert server.do("counts")["short"] == [1, 1, 0, 0]
    assert server.do("counts")["next"] == [1, 1, 0, 0]


def test_what_was_held_up_on_its_way_is_not_killed_for_it(files: FilePair) -> None:
    server = files.server_process()
    workers = [files.worker() for _ in range(4)]
    server.signal(signal.SIGSTOP)
    for worker in workers:
        worker.ask("pairs", "quick", 3_000, 0.2)  # far more than the pipe holds
    assert [worker.answer() for worker in workers] == [3_000] * 4
    deadline = time.monotonic() + 0.5
    eventually(lambda: time.monotonic() > deadline, "all of their deadlines have passed")
    server.signal(signal.SIGCONT)
    # Whole batches now end between an acquire and its release, both long overdue.
    eventually(lambda: server.do("counts").get("quick") == [12_000, 12_000, 0, 0])
    assert [worker.alive for worker in workers] == [True] * 4


def test_a_second_server_on_a_live_path_is_refused(files: FilePair, recorder: Recorder) -> None:
    files.server(observer=recorder)
    with pytest.raises(ServerRunningError, match="a live timer server"):
        FileTimerServer(files.path)
    with pytest.raises(FileExistsError):  # torch's users know this one
        FileTimerServer(str(files.path))
    worker = files.worker()
    worker.tell("stuck", "hang", 0.2)  # the first one did not notice
    recorder.wait(WorkerKilled, worker.pid)


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_pipe_is_never_deleted(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    if kind == "file":
        path.write_text("data")
    elif kind == "directory":
        path.mkdir()
    else:
        (tmp_path / "target").write_text("data")
        path.symlink_to(tmp_path / "target")
    before = path.lstat()
    with pytest.raises(PathOccupiedError):
        FileTimerServer(path)
    assert path.lstat().st_ino == before.st_ino
    assert path.lstat().st_size == before.st_size


def test_a_path_that_cannot_be_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileTimerServer(tmp_path / "missing" / "pipe")


def test_a_pipe_that_somebody_removed_is_not_removed_again(
    files: FilePair, recorder: Recorder
) -> None:
    server = files.server(observer=recorder)
    files.path.unlink()
    files.path.write_text("something else by now")
    server.stop()
    assert files.path.read_text() == "something else by now"
    assert len(recorder.of(WatchdogStopped)) == 1
