"""fork(2) under a client and under a server: each process has its own timers and its own pipe."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.waiting import eventually
from timers.events import WorkerExited, WorkerKilled

if TYPE_CHECKING:
    from support.recording import Recorder
    from support.servers import FilePair

pytestmark = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")


def open_files(pid: int) -> list[str]:
    """What the open descriptors of a process are."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(str(entry.readlink()))
    return found


def test_a_child_that_ends_does_not_end_its_parents_timers(
    files: FilePair, recorder: Recorder
) -> None:
    server = files.server(observer=recorder)
    parent = files.worker()
    parent.do("enter", "same", 3600)
    parent.do("fork")
    child = files.accept()
    child.do("enter", "same", 3600)
    eventually(lambda: server.statistics.requests == 2)
    assert len(server._timers) == 2
    child.signal(signal.SIGKILL)
    exited = recorder.wait(WorkerExited, child.pid)
    assert [info.scope_id for info, _ in exited.timers] == ["same"]
    assert [pid for pid, _ in server._timers] == [parent.pid]
    parent.do("leave", "same")
    eventually(lambda: server._timers == {})


def test_a_child_has_a_descriptor_of_its_own(files: FilePair, recorder: Recorder) -> None:
    server = files.server(observer=recorder)
    parent = files.worker()
    parent.do("enter", "parent", 3600)
    assert parent.do("descriptors").count(str(files.path)) == 1
    parent.do("fork")
    child = files.accept()
    # Without a timer of its own it holds nothing open that is its parent's.
    assert child.do("descriptors").count(str(files.path)) == 0
    child.do("enter", "child", 3600)
    eventually(lambda: server.statistics.requests == 2)
    assert child.do("descriptors").count(str(files.path)) == 1
    assert {scope: pid for pid, scope in server._timers} == {
        "parent": parent.pid,
        "child": child.pid,
    }


def test_forks_in_the_middle_of_other_threads_requests(files: FilePair, recorder: Recorder) -> None:
    server = files.server(observer=recorder)
    parent = files.worker()
    for number in range(2):
        parent.ask("pairs", "busy", 10_000, thread=f"t{number}")
    parent.tell("short_lives", "brief", 30)  # forks while the others hold whatever they hold
    assert [parent.answer(), parent.answer()] == [10_000, 10_000]
    eventually(lambda: server._request_count >= 40_060)
    assert server._request_count == 40_060
    assert server.statistics.scopes["busy"].releases == 20_000
    assert server.statistics.scopes["brief"].releases == 30
    eventually(lambda: len(recorder.of(WorkerExited)) == 30)
    assert server._timers == {}


def test_a_child_of_the_servers_process_has_nothing_of_the_server(
    files: FilePair, recorder: Recorder
) -> None:
    server = files.server(observer=recorder)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            server.stop()  # it is the parent's: nothing happens
            os.write(writer, "\n".join(open_files(os.getpid())).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        child = file.read().splitlines()
    os.waitpid(pid, 0)
    mine = open_files(os.getpid())
    kinds = (str(files.path), "anon_inode:[eventpoll]")
    assert [mine.count(kind) for kind in kinds] == [1, 1]
    assert [child.count(kind) for kind in kinds] == [0, 0]
    assert files.path.exists()
    worker = files.worker()
    worker.tell("stuck", "hang", 0.2)
    recorder.wait(WorkerKilled, worker.pid)


def test_children_of_a_dead_server_do_not_keep_its_pipe_alive(files: FilePair) -> None:
    server = files.server_process()
    worker = files.worker()
    worker.do("enter", "open", 3600)
    eventually(lambda: server.do("requests") == 1)
    child = server.do("fork")
    try:
        eventually(lambda: str(files.path) not in open_files(child), "it has let go of the pipe")
        assert str(files.path) in open_files(server.pid)
        server.signal(signal.SIGKILL)
        assert server.gone()
        with pytest.raises(AssertionError, match="NoServerError"):
            worker.do("acquire", "nobody reads", 3600)
        successor = files.server_process()
        worker.do("acquire", "heard", 3600)
        eventually(lambda: successor.do("counts").get("heard") == [1, 0, 1, 0])
    finally:
        os.kill(child, signal.SIGKILL)
