"""What every pair promises, shown for each transport, queue and start method."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.recording import Recorder
from support.waiting import eventually
from timers.events import (
    Event,
    Outcome,
    ReapFailed,
    StackDumped,
    TimerExpired,
    WatchdogStopped,
    WorkerExited,
    WorkerKilled,
)
from victims.worker import FILE

if TYPE_CHECKING:
    from support.servers import Pair

# Python 3.12 warns of fork in a process with threads. Ours survives it, which is shown here.
pytestmark = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")

PROMPT = 5.0
"""Far below the default ``max_interval`` of any server, far above what a busy machine takes."""

REAP = ["timer expired", "stack dumped", "kill worker process"]


def die_stuck(pair: Pair, recorder: Recorder, after: float = 0.3) -> WorkerKilled:
    """Show that the server still reaps; what was due before that has happened by then."""
    worker = pair.worker()
    worker.tell("stuck", "last", after)
    return recorder.wait(WorkerKilled, worker.pid)


def test_what_is_released_is_counted_and_nobody_is_killed(pair: Pair, recorder: Recorder) -> None:
    server = pair.server(observer=recorder)
    worker = pair.worker()
    for _ in range(3):
        worker.do("enter", "short", 1.0)
        worker.do("leave", "short")
    die_stuck(pair, recorder, after=1.2)  # later than all of those deadlines
    assert worker.alive
    assert recorder.names(worker.pid) == []
    found = server.statistics.scopes["short"]
    assert (found.acquires, found.releases, found.active, found.expirations) == (3, 3, 0, 0)
    assert sum(found.durations.counts) == 3
    assert server._request_count == 7


def test_who_overruns_is_explained_and_killed(pair: Pair, recorder: Recorder) -> None:
    server = pair.server(observer=recorder)
    worker = pair.worker()
    worker.tell("stuck", "hang", 0.4)
    killed = recorder.wait(WorkerKilled, worker.pid)
    assert worker.gone()
    assert recorder.names(worker.pid) == REAP
    assert (killed.signal, killed.outcome) == (signal.SIGKILL, Outcome.KILLED)
    assert [info.scope_id for info, _ in killed.timers] == ["hang"]
    [expired] = recorder.of(TimerExpired, worker.pid)
    assert expired.timer.after_seconds == pytest.approx(0.4)
    assert 0 <= expired.lateness_seconds < PROMPT
    assert expired.elapsed_seconds >= 0.4
    [dumped] = recorder.of(StackDumped, worker.pid)
    assert dumped.timer is not None
    stack = dumped.dump.thread(dumped.timer.thread)
    assert stack is not None
    frames = [(frame.function, frame.file, frame.line) for frame in stack.frames]
    assert ("stuck_here", FILE, worker.hello["stuck_line"]) in frames
    assert server._timers == {}
    found = server.statistics.scopes["hang"]
    assert (found.active, found.expirations, found.reaps[Outcome.KILLED]) == (0, 1, 1)
    assert server.statistics.workers == 0


def test_a_block_around_a_block_of_the_same_scope_stays_protected(
    pair: Pair, recorder: Recorder
) -> None:
    pair.server(observer=recorder)
    worker = pair.worker()
    worker.do("enter", "same", 0.5)
    worker.do("enter", "same", 60)
    worker.do("leave", "same")
    killed = recorder.wait(WorkerKilled, worker.pid)
    assert killed.timer.after_seconds == pytest.approx(0.5)


def test_threads_in_one_scope_have_a_timer_each(pair: Pair, recorder: Recorder) -> None:
    server = pair.server(observer=recorder)
    worker = pair.worker()
    worker.do("enter", "same", 60, thread="a")
    worker.do("enter", "same", 60, thread="b")
    eventually(lambda: server.statistics.requests == 2)
    assert server.statistics.scopes["same"].active == 2
    worker.do("leave", "same", thread="b")
    eventually(lambda: server.statistics.requests == 3)
    assert server.statistics.scopes["same"].active == 1
    native_id = worker.do("thread_id", thread="a")
    worker.do("acquire", "same", 0.1, thread="a")
    assert recorder.wait(WorkerKilled, worker.pid).timer.thread == native_id


def test_who_exits_inside_its_scopes_is_told_at_once(pair: Pair, recorder: Recorder) -> None:
    server = pair.server(observer=recorder)
    worker = pair.worker()
    worker.do("enter_all", ["outer", "inner"], 3600)
    worker.tell("exit")
    exited = recorder.wait(WorkerExited, worker.pid)  # an hour before any deadline
    assert exited.level == "warning"
    assert [info.scope_id for info, _ in exited.timers] == ["outer", "inner"]
    assert all(elapsed >= 0 for _, elapsed in exited.timers)
    assert server._timers == {}
    assert server.statistics.workers == 0
    assert {scope.active for scope in server.statistics.scopes.values()} == {0}
    assert recorder.names(worker.pid) == ["worker exited"]


def test_who_exits_outside_of_its_scopes_is_no_warning(pair: Pair, recorder: Recorder) -> None:
    pair.server(observer=recorder)
    worker = pair.worker()
    worker.do("pairs", "done", 10)
    worker.tell("exit")
    exited = recorder.wait(WorkerExited, worker.pid)
    assert (exited.level, exited.timers) == ("info", ())


def test_a_heartbeat_keeps_alive(pair: Pair, recorder: Recorder) -> None:
    server = pair.server(observer=recorder)
    worker = pair.worker()
    worker.do("beat", "heart", 1.0, 3600)
    die_stuck(pair, recorder, after=1.1)  # later than the first deadline
    assert worker.alive
    assert server.statistics.scopes["heart"].active == 1
    assert server.statistics.scopes["heart"].expirations == 0
    worker.do("beat", "heart", 3600, 0.1)
    recorder.wait(WorkerKilled, worker.pid)
    assert server.statistics.scopes["heart"].acquires == 4


def test_a_release_that_was_sent_in_time_counts_however_late_it_is_read(
    pair: Pair, recorder: Recorder
) -> None:
    server = pair.server(observer=recorder)
    worker = pair.worker()
    worker.do("pairs", "warm", 1)
    eventually(lambda: server.statistics.requests == 2)
    with server._watchdog.lock:
        worker.do("enter", "close", 0.5)
        worker.do("leave", "close")
        threading.Event().wait(0.8)  # the deadline passes while the server can do nothing
    die_stuck(pair, recorder)
    assert worker.alive
    assert server.statistics.scopes["close"].expirations == 0


def test_a_release_of_nothing_is_allowed(pair: Pair, recorder: Recorder) -> None:
    server = pair.server(observer=recorder)
    worker = pair.worker()
    worker.do("release", "nothing")
    eventually(lambda: server.statistics.requests == 1)
    found = server.statistics.scopes["nothing"]
    assert (found.acquires, found.releases, found.active) == (0, 1, 0)


def test_no_time_at_all_expires_at_once(pair: Pair, recorder: Recorder) -> None:
    pair.server(observer=recorder)
    worker = pair.worker()
    worker.tell("stuck", "none", 0)
    assert recorder.wait(WorkerKilled, worker.pid).outcome is Outcome.KILLED


def test_all_who_expire_together_are_reaped(pair: Pair, recorder: Recorder) -> None:
    server = pair.server(observer=recorder)
    workers = [pair.worker() for _ in range(4)]
    for worker in workers:
        worker.tell("stuck", "together", 0.5)
    for worker in workers:
        recorder.wait(WorkerKilled, worker.pid)
        assert worker.gone()
        assert recorder.names(worker.pid) == REAP
    assert server.statistics.scopes["together"].reaps[Outcome.KILLED] == 4
    assert server._timers == {}


class Hostile(Recorder):
    """Notes everything, and raises each time."""

    def emit(self, event: Event) -> None:
        super().emit(event)
        raise RuntimeError("no")

    def flush(self, timeout: float) -> bool:
        raise RuntimeError(f"not within {timeout}")


def test_an_observer_that_raises_changes_nothing(pair: Pair) -> None:
    hostile = Hostile(wants_requests=True)
    server = pair.server(observer=hostile)
    worker = pair.worker()
    worker.tell("stuck", "hang", 0.3)
    hostile.wait(WorkerKilled, worker.pid)
    assert worker.gone()
    assert hostile.names(worker.pid) == ["timer acquired", *REAP]
    assert server.statistics.scopes["hang"].reaps[Outcome.KILLED] == 1


def test_a_forked_worker_is_a_worker_of_its_own(pair: Pair, recorder: Recorder) -> None:
    server = pair.server(observer=recorder)
    parent = pair.worker()
    parent.do("enter", "parent", 3600)
    assert parent.do("fork") != parent.pid
    child = pair.accept()
    child.tell("stuck", "child", 0.3)
    killed = recorder.wait(WorkerKilled, child.pid)
    assert killed.timer.thread == child.pid  # the main thread of the child, not of the parent
    assert child.gone()
    assert parent.alive
    assert [scope for _, scope in server._timers] == ["parent"]
    parent.do("acquire", "parent", 0.1)
    recorder.wait(WorkerKilled, parent.pid)


def own_descriptors(*kinds: str) -> Counter[str]:
    """What this process has open; other code here may let go of pipes and sockets meanwhile."""
    found = Counter[str]()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found[str(entry.readlink())] += 1
    return Counter({name: count for name, count in found.items() if any(k in name for k in kinds)})


def test_a_stopped_server_leaves_nothing(pair: Pair, recorder: Recorder) -> None:
    kinds = ("eventpoll", "eventfd", "pidfd", "/pipe")
    first = pair.worker()
    stuck = pair.worker()
    threads = set(threading.enumerate())
    descriptors = own_descriptors(*kinds)
    server = pair.server(observer=recorder)
    first.do("enter", "open", 3600)
    stuck.tell("stuck", "hang", 0.2)
    recorder.wait(WorkerKilled, stuck.pid)
    assert own_descriptors(*kinds) > descriptors
    server.stop()
    [stopped] = recorder.of(WatchdogStopped)
    assert [info.scope_id for _, info, _ in stopped.timers] == ["open"]
    assert own_descriptors(*kinds) == descriptors
    eventually(lambda: set(threading.enumerate()) <= threads, "its threads have ended")
    assert first.alive
    assert recorder.of(ReapFailed) == []
    server.stop()  # once more changes nothing
    assert len(recorder.of(WatchdogStopped)) == 1
