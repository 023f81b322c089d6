"""A worker's end is noticed at once, with what it died in."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from support.waiting import eventually
from timers.events import WorkerExited, WorkerKilled
from timers.linux import procfs

if TYPE_CHECKING:
    from support.recording import Recorder
    from support.servers import FilePair


def test_a_worker_that_somebody_else_killed(files: FilePair, recorder: Recorder) -> None:
    server = files.server(observer=recorder)
    worker = files.worker()
    worker.do("enter_all", ["outer", "inner"], 3600)
    eventually(lambda: server.statistics.requests == 2)
    worker.signal(signal.SIGKILL)
    exited = recorder.wait(WorkerExited, worker.pid)
    assert [info.scope_id for info, _ in exited.timers] == ["outer", "inner"]
    assert exited.level == "warning"
    # Nobody has waited for it yet: a zombie has ended.
    found = procfs.stat(worker.pid)
    assert found is not None
    assert found.state == "Z"
    assert recorder.of(WorkerKilled) == []


def test_a_worker_that_ended_before_it_was_heard_of(files: FilePair, recorder: Recorder) -> None:
    server = files.server(observer=recorder)
    worker = files.worker()
    with files.paused():
        worker.do("enter", "cut short", 3600)
        worker.signal(signal.SIGKILL)
        files.processes[worker.pid].wait()
    exited = recorder.wait(WorkerExited, worker.pid)
    assert [info.scope_id for info, _ in exited.timers] == ["cut short"]
    assert recorder.names(worker.pid) == ["worker exited"]
    assert server._timers == {}
    assert server.statistics.workers == 0
    assert server.statistics.scopes["cut short"].active == 0


def test_a_stopped_worker_has_not_ended(files: FilePair, recorder: Recorder) -> None:
    server = files.server(observer=recorder)
    stopped = files.worker()
    stopped.do("enter", "paused", 3600)
    eventually(lambda: server.statistics.requests == 1)
    stopped.signal(signal.SIGSTOP)
    other = files.worker()
    other.do("enter", "short", 3600)
    other.signal(signal.SIGKILL)
    recorder.wait(WorkerExited, other.pid)
    assert [scope for _, scope in server._timers] == ["paused"]
    stopped.signal(signal.SIGCONT)
    stopped.do("leave", "paused")
    eventually(lambda: server._timers == {})


def test_the_end_of_a_thread_is_not_that_of_its_worker(files: FilePair, recorder: Recorder) -> None:
    server = files.server(observer=recorder)
    worker = files.worker()
    worker.do("enter", "by a thread", 0.5, thread="a")
    worker.do("end_thread", thread="a")
    killed = recorder.wait(WorkerKilled, worker.pid)  # its block was never left
    assert killed.timer.scope_id == "by a thread"
    assert server._timers == {}


def test_many_short_lives(files: FilePair, recorder: Recorder) -> None:
    server = files.server(observer=recorder)
    parent = files.worker()
    pids = parent.do("short_lives", "brief", 50)
    assert len(set(pids)) == 50
    for pid in pids:
        recorder.wait(WorkerExited, pid)
    assert [recorder.names(pid) for pid in pids] == [["worker exited"]] * 50
    assert [event.timers for event in recorder.of(WorkerExited)] == [()] * 50
    assert server._request_count == 100
    found = server.statistics.scopes["brief"]
    assert (found.acquires, found.releases, found.active) == (50, 50, 0)
    # The last one is forgotten right after its end was reported.
    eventually(lambda: server.statistics.workers == 0)
