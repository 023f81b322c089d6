"""How a stuck worker is explained and ended, whatever it and the tools do."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from support.processes import VICTIMS, victim
from support.waiting import eventually
from timers import FileTimerClient, FileTimerRequest, ReapPolicy
from timers.debug_info_logging import log_debug_info_for_expired_timers
from timers.events import Outcome, ReapFailed, StackDumped, TimerExpired, WorkerKilled
from timers.linux import procfs

if TYPE_CHECKING:
    from pathlib import Path

    from support.recording import Recorder
    from support.servers import FilePair

REAP = ["timer expired", "stack dumped", "kill worker process"]

STATES = {
    "sleep": "S",
    "spin": "R",
    "lock": "S",
    "read": "S",
    "gil": "S",
    "threads": "S",
    "stopped": "T",
}


def announce(files: FilePair, pid: int, after: float = 0.3) -> None:
    """Say, in the place of a process that has no client, that its block takes so long."""
    request = FileTimerRequest(pid, "all_reduce", time.time() + after, signal.SIGKILL)
    FileTimerClient(files.path)._send_request(request)


@pytest.mark.parametrize("mode", sorted(STATES))
def test_each_stuck_worker_is_dumped_with_its_frame_and_killed(
    mode: str, files: FilePair, recorder: Recorder
) -> None:
    server = files.server(observer=recorder)
    with victim("stuck", mode) as process:

        def stuck() -> bool:
            found = procfs.stat(process.pid)
            return found is not None and found.state == STATES[mode]

        eventually(stuck, "it is stuck")
        announce(files, process.pid)
        killed = recorder.wait(WorkerKilled, process.pid)
        assert process.wait() == -signal.SIGKILL
    assert killed.outcome is Outcome.KILLED
    assert recorder.names(process.pid) == REAP
    [dumped] = recorder.of(StackDumped, process.pid)
    stack = dumped.dump.thread()
    assert stack is not None
    names = [(frame.function, frame.file) for frame in stack.frames]
    assert (f"stuck_here_{mode}", str(VICTIMS / "stuck.py")) in names
    assert len(dumped.dump.threads) == (21 if mode == "threads" else 1)
    assert server.statistics.dumps["py-spy", "ok"].counts[-1] == 0
    assert sum(server.statistics.dumps["py-spy", "ok"].counts) == 1


def test_without_any_tool_the_kill_comes_and_the_event_says_why(
    files: FilePair, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMERS_PY_SPY", "/nonexistent/py-spy")
    monkeypatch.setenv("TIMERS_PYSTACK", "/nonexistent/pystack")
    files.server(observer=recorder)
    worker = files.worker()
    worker.tell("stuck", "hang", 0.3)
    recorder.wait(WorkerKilled, worker.pid)
    assert recorder.names(worker.pid) == REAP
    [dumped] = recorder.of(StackDumped, worker.pid)
    assert (dumped.dump.method, dumped.dump.threads) == ("proc", ())
    assert dumped.dump.facts.state == "sleeping"
    assert "/nonexistent/py-spy" in (dumped.dump.error or "")


def children() -> list[int]:
    return procfs.children(os.getpid())


@pytest.fixture
def endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that never comes to an end."""
    tool = tmp_path / "endless"
    tool.write_text("#!/bin/sh\nexec sleep 1000\n")
    tool.chmod(0o700)
    monkeypatch.setenv("TIMERS_PY_SPY", str(tool))
    monkeypatch.setenv("TIMERS_PYSTACK", "/nonexistent/pystack")


@pytest.mark.usefixtures("endless")
def test_a_tool_that_never_ends_is_given_up(files: FilePair, recorder: Recorder) -> None:
    files.server(observer=recorder, policy=ReapPolicy(dump_timeout=0.5))
    worker = files.worker()
    worker.tell("stuck", "hang", 0.3)
    killed = recorder.wait(WorkerKilled, worker.pid)
    assert killed.outcome is Outcome.KILLED
    [dumped] = recorder.of(StackDumped, worker.pid)
    assert dumped.dump.threads == ()
    assert "timed out" in (dumped.dump.error or "")
    assert dumped.dump.facts.state == "sleeping"
    assert dumped.dump.seconds < 2
    # It and what it started are gone: its session was killed.
    assert not any("sleep" in procfs.thread_names(pid).get(pid, "") for pid in children())


@pytest.mark.parametrize("times_out", [True, False])
def test_a_step_before_the_kill_that_fails_does_not_prevent_it(
    times_out: bool, files: FilePair, recorder: Recorder
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def before_kill(run_id: str, timers: dict[int, list[str]]) -> None:
        assert (run_id, list(timers)) == ("run", [worker.pid])
        entered.set()
        if times_out:
            leave.wait()
        raise ValueError("broken step")

    files.server(observer=recorder, before_kill=before_kill, policy=ReapPolicy(dump_timeout=0.2))
    worker = files.worker()
    worker.tell("stuck", "hang", 0.3)
    recorder.wait(WorkerKilled, worker.pid)
    leave.set()
    assert entered.is_set()
    assert recorder.names(worker.pid) == REAP
    [dumped] = recorder.of(StackDumped, worker.pid)
    reason = "TimeoutError: not finished within" if times_out else "ValueError: broken step"
    assert reason in (dumped.dump.error or "")


@pytest.mark.parametrize("blocks", [True, False])
def test_a_log_event_that_blocks_or_raises_does_not_prevent_the_kill(
    blocks: bool, files: FilePair, recorder: Recorder
) -> None:
    told: list[str] = []
    leave = threading.Event()

    def log_event(name: str, request: FileTimerRequest | None) -> None:
        del request
        told.append(name)
        if blocks:
            leave.wait()
        raise RuntimeError("broken callback")

    files.server(observer=recorder, log_event=log_event, policy=ReapPolicy(flush_timeout=0.2))
    worker = files.worker()
    worker.tell("stuck", "hang", 0.3)
    assert recorder.wait(WorkerKilled, worker.pid).outcome is Outcome.KILLED
    assert told[0] == "watchdog started"
    leave.set()
    eventually(lambda: told[-1] == "kill worker process")
    assert told == ["watchdog started", "timer expired", "kill worker process"]


def test_who_obeys_sigterm_is_not_killed_harder(files: FilePair, recorder: Recorder) -> None:
    files.server(observer=recorder)
    worker = files.worker(signal.SIGTERM)
    worker.tell("stuck", "hang", 0.3)
    killed = recorder.wait(WorkerKilled, worker.pid)
    assert (killed.outcome, killed.signal) == (Outcome.KILLED, signal.SIGTERM)
    assert files.processes[worker.pid].wait() == -signal.SIGTERM


def test_who_ignores_sigterm_is_killed_by_sigkill(files: FilePair, recorder: Recorder) -> None:
    server = files.server(observer=recorder, policy=ReapPolicy(grace=0.2))
    worker = files.worker(signal.SIGTERM)
    worker.do("ignore", int(signal.SIGTERM))
    worker.tell("stuck", "hang", 0.3)
    killed = recorder.wait(WorkerKilled, worker.pid)
    assert killed.outcome is Outcome.ESCALATED
    assert files.processes[worker.pid].wait() == -signal.SIGKILL
    assert recorder.names(worker.pid) == REAP
    assert server.statistics.scopes["hang"].reaps[Outcome.ESCALATED] == 1


@pytest.mark.parametrize("number", [0, -1])
def test_without_a_signal_it_is_only_observed(
    number: int, files: FilePair, recorder: Recorder
) -> None:
    server = files.server(observer=recorder)
    worker = files.worker(number)
    worker.do("enter", "watched", 0.2)
    recorder.wait(StackDumped, worker.pid)
    other = files.worker()
    other.tell("stuck", "hang", 0.2)
    recorder.wait(WorkerKilled, other.pid)
    assert worker.alive
    found = server.statistics.scopes["watched"]
    assert (found.active, found.expirations, sum(found.reaps.values())) == (1, 1, 0)
    worker.do("leave", "watched")
    eventually(lambda: found.active == 0, "released")
    assert recorder.names(worker.pid) == ["timer expired", "stack dumped"]
    # It is no immunity: a timer with a signal still kills.
    worker.do("send", worker.pid, "real", time.time() + 0.1, int(signal.SIGKILL))
    assert recorder.wait(WorkerKilled, worker.pid).timer.scope_id == "real"


def test_who_is_gone_before_the_signal_is_an_outcome_of_its_own(
    files: FilePair, recorder: Recorder
) -> None:
    def before_kill(run_id: str, timers: dict[int, list[str]]) -> None:
        del run_id, timers
        worker.signal(signal.SIGTERM)
        assert worker.gone()

    server = files.server(observer=recorder, before_kill=before_kill)
    worker = files.worker()
    worker.tell("stuck", "hang", 0.3)
    killed = recorder.wait(WorkerKilled, worker.pid)
    assert killed.outcome is Outcome.ALREADY_GONE
    assert recorder.names(worker.pid) == ["timer expired", "kill worker process"]
    assert server.statistics.scopes["hang"].reaps[Outcome.ALREADY_GONE] == 1
    assert server._timers == {}


def test_who_cannot_be_killed_is_tried_again_until_it_is_gone(
    files: FilePair, recorder: Recorder
) -> None:
    server = files.server(
        observer=recorder,
        policy=ReapPolicy(grace=0.1),
        before_kill=partial(log_debug_info_for_expired_timers, timeout=0.5),
    )
    worker = files.worker()
    worker.do("allow_tracing")
    with victim("tracer", str(worker.pid)) as tracer:
        worker.tell("stuck", "hang", 0.3)
        first = recorder.wait(ReapFailed, worker.pid)
        assert (first.outcome, first.attempt, first.retry_in_seconds) == (Outcome.STILL_ALIVE, 1, 1)
        assert [scope for _, scope in server._timers] == ["hang"]
        second = recorder.wait(ReapFailed, worker.pid, count=2)
        assert (second.attempt, second.retry_in_seconds) == (2, 2)
        assert worker.alive
        tracer.kill()
        assert worker.gone()
    killed = recorder.wait(WorkerKilled, worker.pid)
    assert killed.outcome is Outcome.KILLED
    assert [info.scope_id for info, _ in killed.timers] == ["hang"]
    assert server._timers == {}
    found = server.statistics.scopes["hang"]
    assert (found.reaps[Outcome.STILL_ALIVE], found.reaps[Outcome.KILLED]) == (2, 1)
    assert (found.active, found.expirations) == (0, 1)
    assert server.statistics.workers == 0


def test_all_that_expired_is_told_in_order_and_one_kill_ends_it(
    files: FilePair, recorder: Recorder
) -> None:
    server = files.server(observer=recorder)
    worker = files.worker()
    worker.do("acquire", "second", 1.3)
    worker.do("acquire", "first", 1.2)
    worker.do("acquire", "not yet", 60)
    eventually(lambda: server.statistics.requests == 3)
    with files.paused():
        time.sleep(1.5)  # both are due when the server looks
    killed = recorder.wait(WorkerKilled, worker.pid)
    expired = [event.timer.scope_id for event in recorder.of(TimerExpired, worker.pid)]
    assert expired == ["first", "second"]
    assert killed.timer.scope_id == "first"
    assert {info.scope_id for info, _ in killed.timers} == {"first", "second", "not yet"}
    assert recorder.names(worker.pid).count("kill worker process") == 1


def test_a_reap_under_way_is_finished_when_the_server_is_stopped(
    files: FilePair, recorder: Recorder
) -> None:
    entered, over = threading.Event(), threading.Event()

    def before_kill(run_id: str, timers: dict[int, list[str]]) -> None:
        del run_id, timers
        entered.set()
        over.wait()

    server = files.server(
        observer=recorder, before_kill=before_kill, policy=ReapPolicy(dump_timeout=0.5)
    )
    worker = files.worker()
    worker.tell("stuck", "hang", 0.2)
    assert entered.wait(60)
    server.stop()
    over.set()
    assert worker.gone(0)
    assert [event.name for event in recorder.events] == [
        "watchdog started",
        *REAP,
        "watchdog stopped",
    ]


def test_events_name_the_rank_that_the_launcher_gave(files: FilePair, recorder: Recorder) -> None:
    files.server(observer=recorder)
    files.environment = {"RANK": "5", "LOCAL_RANK": "1", "TORCHELASTIC_RESTART_COUNT": "2"}
    worker = files.worker()
    worker.tell("stuck", "hang", 0.2)
    who = recorder.wait(WorkerKilled, worker.pid).worker
    assert (who.rank, who.local_rank, who.restart_count) == (5, 1, 2)
    assert who.start_time is not None


def test_max_interval_is_not_the_latency_of_a_reap(files: FilePair, recorder: Recorder) -> None:
    server = files.server(observer=recorder)
    assert server._max_interval == 10
    workers = [files.worker() for _ in range(3)]
    for worker in workers:
        worker.tell("stuck", "hang", 0.4)
    for worker in workers:
        recorder.wait(WorkerKilled, worker.pid)
    assert [event.lateness_seconds < 5 for event in recorder.of(TimerExpired)] == [True] * 3


def test_an_idle_server_wakes_up_once_in_max_interval(files: FilePair, recorder: Recorder) -> None:
    server = files.server(observer=recorder, max_interval=0.2)
    steps: list[float] = []
    step = server._watchdog.step

    def counted(until_ns: int) -> None:
        step(until_ns)
        steps.append(time.monotonic())

    server._watchdog.step = counted  # type: ignore[method-assign]  # to see each wake-up
    worker = files.worker()
    worker.do("enter", "open", 3600)  # a running timer costs no wake-up before its deadline
    eventually(lambda: server.statistics.requests == 1)
    start = len(steps), time.monotonic()
    eventually(lambda: len(steps) >= start[0] + 6, "it wakes up")
    elapsed = steps[start[0] + 5] - start[1]
    assert elapsed >= (6 - 2) * 0.2


def test_an_idle_server_process_hardly_runs(files: FilePair) -> None:
    server = files.server_process(max_interval=0.2)

    def switches(task: Path) -> int:
        lines = task.joinpath("status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("voluntary"))

    tasks = files.tasks(server.pid)
    watchdog = next(task for task in tasks if task.name != str(server.pid))
    before, start = switches(watchdog), time.monotonic()
    eventually(lambda: switches(watchdog) >= before + 5, "it wakes up")
    # Each wake-up may have to wait for the interpreter lock once.
    assert time.monotonic() - start >= (5 / 2 - 2) * 0.2
