"""One call attaches it: to our servers, to a server of somebody's own, to torch's."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

import observability
import timers
from observability.sinks.metrics import Metrics
from support.log_lines import read
from support.processes import VICTIMS, victim
from support.sinks import BlockingSink, RaisingSink, RecordingSink
from support.waiting import eventually
from timers.server.observers.event_queue import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class DictServer(timers.TimerServer):
    """Somebody's own, after torch's documentation."""

    def __init__(self, queue: timers.RequestQueue, reaped: list[Any]) -> None:
        super().__init__(queue, max_interval=0.05)
        self._open: dict[tuple[Any, str], timers.TimerRequest] = {}
        self._reaped = reaped

    def register_timers(self, timer_requests: list[timers.TimerRequest]) -> None:
        for request in timer_requests:
            self._open[request.worker_id, request.scope_id] = request

    def clear_timers(self, worker_ids: set[Any]) -> None:
        self._open = {key: value for key, value in self._open.items() if key[0] not in worker_ids}

    def get_expired_timers(self, deadline: float) -> dict[Any, list[timers.TimerRequest]]:
        found: dict[Any, list[timers.TimerRequest]] = {}
        for request in self._open.values():
            if request.expiration_time <= deadline:
                found.setdefault(request.worker_id, []).append(request)
        return found

    def _reap_worker(self, worker_id: Any) -> bool:
        self._reaped.append(worker_id)
        return True


class OneRequest(timers.RequestQueue):
    def __init__(self, request: timers.TimerRequest) -> None:
        self._requests = [request]

    def size(self) -> int:
        return len(self._requests)

    def get(self, size: int, timeout: float) -> list[timers.TimerRequest]:
        if size and self._requests:
            return [self._requests.pop()]
        time.sleep(timeout)
        return []


def test_a_reap_by_our_file_server(tmp_path: Path) -> None:
    path, log = tmp_path / "pipe", tmp_path / "log"
    sink = RecordingSink()
    server = timers.FileTimerServer(str(path), run_id="job-7", max_interval=0.1)
    pipeline = observability.attach(server, events=log, level="debug", sinks=[sink])
    metrics = Metrics(pipeline)
    value = metrics.registry.get_sample_value
    server.start()
    try:
        ranks = {"RANK": "3", "LOCAL_RANK": "1", "TORCHELASTIC_RESTART_COUNT": "2"}
        with victim("file_client", str(path), "0.2", env=ranks) as process:
            assert process.wait(60) == -9
            killed = {"scope": "stuck_scope", "outcome": "killed"}
            eventually(lambda: value("timers_reaps_total", killed) == 1)
    finally:
        server.stop()
    assert pipeline.close(30)
    lines = read(log)
    by_event = {line["event"]: line for line in lines}
    assert [line["event"] for line in lines] == [
        "watchdog started",
        "timer acquired",
        "timer expired",
        "stack dumped",
        "kill worker process",
        "watchdog stopped",
    ]
    assert {line["run_id"] for line in lines} == {"job-7"}
    dumped = by_event["stack dumped"]
    source = (VICTIMS / "file_client.py").read_text().splitlines()
    stuck_line = next(n for n, text in enumerate(source, 1) if "stuck at this line" in text)
    assert dumped["frame"] == f"{VICTIMS / 'file_client.py'}:{stuck_line} stuck_here"
    assert dumped["process_state"] == "sleeping"
    for name in ("timer expired", "stack dumped", "kill worker process"):
        line = by_event[name]
        assert (line["rank"], line["local_rank"], line["restart_count"]) == (3, 1, 2)
        assert (line["worker_pid"], line["scope_id"]) == (process.pid, "stuck_scope")
    assert by_event["kill worker process"]["outcome"] == "killed"
    assert value("timers_expirations_total", {"scope": "stuck_scope"}) == 1
    assert value("timers_stack_dump_seconds_count", {"method": "py-spy", "outcome": "ok"}) == 1
    assert [event.name for event in sink.events if event.name != "timer acquired"] == [
        line["event"] for line in lines if line["event"] != "timer acquired"
    ]


@pytest.mark.process
def test_no_sink_prevents_a_reap_and_the_counters_say_what_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    stuck, raising = BlockingSink("stuck"), RaisingSink(OSError("always"))
    server = timers.FileTimerServer(str(path), max_interval=0.1)
    pipeline = observability.attach(server, events="/dev/full", sinks=[stuck, raising])
    value = Metrics(pipeline).registry.get_sample_value
    server.start()
    try:
        with victim("file_client", str(path), "0.2") as process:
            assert process.wait(60) == -9
            killed = {"scope": "stuck_scope", "outcome": "killed"}
            eventually(lambda: value("timers_reaps_total", killed) == 1)
    finally:
        server.stop()
    # watchdog started, timer expired, stack dumped, kill worker process, watchdog stopped
    eventually(lambda: value("timers_sink_errors_total", {"sink": "log"}) == 5)
    eventually(lambda: value("timers_sink_errors_total", {"sink": "raising"}) == 5)
    assert not pipeline.close(0.05)
    assert value("timers_events_dropped_total", {"sink": "stuck"}) == 4
    stuck.release.set()
    assert pipeline.close(30)
    assert len(stuck.events) == 1


def test_a_server_of_somebodys_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    reaped: list[Any] = []
    request = timers.TimerRequest("actor-1", "step", time.time() - 1)
    server = DictServer(OneRequest(request), reaped)
    pipeline = observability.attach(server, events=log, run_id="job-8")
    server.start()
    try:
        eventually(lambda: reaped == ["actor-1"])
    finally:
        server.stop()
    assert pipeline.close(30)
    lines = {line["event"]: line for line in read(log)}
    assert set(lines) == {
        "watchdog started",
        "timer expired",
        "kill worker process",
        "watchdog stopped",
    }
    assert {line["run_id"] for line in lines.values()} == {"job-8"}
    assert lines["timer expired"]["worker_pid"] == "actor-1"
    value = Metrics(pipeline).registry.get_sample_value
    assert value("timers_acquires_total", {"scope": "step"}) == 1
    assert value("timers_expirations_total", {"scope": "step"}) == 1


def torch_server() -> Callable[..., Any]:
    timer = pytest.importorskip("torch.distributed.elastic.timer", reason="torch is an extra")
    server: Callable[..., Any] = timer.FileTimerServer
    return server


@pytest.mark.process
def test_torchs_own_server(tmp_path: Path) -> None:
    torch_server()
    log = tmp_path / "log"
    with victim("stuck", "sleep", env={"RANK": "3"}) as process:
        # It ends its own process after a reap, so it needs one.
        script = subprocess.run(
            [sys.executable, VICTIMS / "torch_server.py", tmp_path / "pipe", log, str(process.pid)],
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
        )
        assert process.wait(30) == -9
    assert script.returncode == -9, script.stderr
    lines = read(log)
    assert [line["event"] for line in lines] == [
        "watchdog started",
        "timer expired",
        "kill worker process",
    ]
    assert {line["run_id"] for line in lines} == {"job-9"}
    assert lines[2]["outcome"] == "killed"
    assert (lines[2]["worker_pid"], lines[2]["rank"]) == (process.pid, 3)
    # What the last callback before the end could see of the counters.
    counts = (tmp_path / "log.metrics").read_text()
    assert 'timers_reaps_total{outcome="killed",scope="all_reduce"} 1.0' in counts
    assert 'timers_expirations_total{scope="all_reduce"} 1.0' in counts


def test_an_observer_of_the_server_is_kept() -> None:
    mine, ours = RecordingSink("mine"), RecordingSink("ours")
    observer = Dispatcher(mine, name="mine")
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    server = timers.LocalTimerServer(queue, observer=observer)
    pipeline = observability.attach(server, events=None, sinks=[ours])
    server.start()
    server.stop()
    assert observer.close(30)
    assert pipeline.close(30)
    names = ["watchdog started", "watchdog stopped"]
    assert [event.name for event in mine.events] == [event.name for event in ours.events] == names
    queue.close()


def test_what_cannot_be_attached_is_said() -> None:
    with pytest.raises(TypeError, match=r"cannot attach a pipeline to object: .* log_event="):
        observability.attach(object())


def test_nothing_third_party_is_loaded_without_need() -> None:
    script = (
        "import sys, observability; observability.open_pipeline(events=None).close();"
        "print(sorted({'structlog', 'prometheus_client', 'opentelemetry'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
