"""Whatever happens to those who are told, the stuck worker is reaped, and losses are counted."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

import observability
import timers
from observability.sinks.metrics import Metrics
from support.processes import victim
from support.service import connect, running
from support.sinks import BlockingSink, RaisingSink, RecordingSink
from support.waiting import eventually
from timers.events import Outcome, WorkerKilled
from timers.stacks import take as stacks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from observability import Pipeline

# Bounds for a loaded machine. What a reap must not wait for takes for ever in all that follows; it
# may take the second that the flush before a kill is bounded by, and the dump.
WAIT_SECONDS = 60
ON_TIME_SECONDS = 5


def take(run_id: str, expired: dict[int, list[str]]) -> dict[int, stacks.StackDump]:
    del run_id
    return {pid: stacks.take(pid) for pid in expired}


@contextlib.contextmanager
def attached(directory: Path, **options: Any) -> Iterator[tuple[str, Pipeline]]:
    path = str(directory / "pipe")
    server = timers.FileTimerServer(path, "run-1", before_kill=take)
    told = RecordingSink("told")
    options["sinks"] = [told, *options.get("sinks", ())]
    pipeline = observability.attach(server, **{"events": None, **options})
    server.start()
    try:
        yield path, pipeline
        reaps = [event for event in told.events if isinstance(event, WorkerKilled)]
        late = [event.elapsed_seconds - event.timer.after_seconds for event in reaps]
        assert late
        assert max(late) < ON_TIME_SECONDS
    finally:
        server.stop()
        pipeline.close(0.5)


def assert_reaped(path: str, pipeline: Pipeline) -> None:
    (statistics,) = pipeline.statistics
    reaps = statistics.scope("stuck_scope").reaps
    before = reaps[Outcome.KILLED]
    with victim("file_client", path, "0.2") as process:
        assert process.wait(timeout=WAIT_SECONDS) == -9
    eventually(lambda: reaps[Outcome.KILLED] == before + 1, "the reap is counted")


def lost(pipeline: Pipeline, sink: str) -> tuple[int, int]:
    counts = pipeline.sink_counts[sink]
    text = Metrics(pipeline).exposition("text/plain")[0].decode()
    assert f'timers_events_dropped_total{{sink="{sink}"}} {float(counts.dropped)}' in text
    assert f'timers_sink_errors_total{{sink="{sink}"}} {float(counts.errors)}' in text
    return counts.dropped, counts.errors


def test_log_on_a_full_disk(tmp_path: Path) -> None:
    with attached(tmp_path, events="/dev/full") as (path, pipeline):
        assert_reaped(path, pipeline)
        eventually(lambda: pipeline.sink_counts["log"].errors == 4, "the errors are counted")
        assert lost(pipeline, "log") == (0, 4)


def test_log_pipe_whose_reader_stopped_reading(tmp_path: Path) -> None:
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    filler = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(filler, b"x" * 4096)
    try:
        with attached(tmp_path, events=fifo, capacity=2) as (path, pipeline):
            for _ in range(4):
                assert_reaped(path, pipeline)
            assert lost(pipeline, "log")[0] > 0
    finally:
        os.close(filler)
        os.close(reader)


def test_sink_that_always_raises(tmp_path: Path) -> None:
    sink = RaisingSink(RuntimeError("always"))
    with attached(tmp_path, sinks=[sink]) as (path, pipeline):
        assert_reaped(path, pipeline)
        # Started, expired, dumped, killed.
        eventually(lambda: pipeline.sink_counts[sink.name].errors == 4, "each event is tried")
        assert lost(pipeline, sink.name)[1] == sink.calls


def test_sink_that_blocks_for_ever(tmp_path: Path) -> None:
    sink = BlockingSink()
    try:
        with attached(tmp_path, sinks=[sink], capacity=2) as (path, pipeline):
            for _ in range(3):
                assert_reaped(path, pipeline)
            assert lost(pipeline, sink.name)[0] > 0
    finally:
        sink.release.set()


@pytest.mark.parametrize("answers", ["nobody listens", "accepts and never answers"])
def test_collector_that_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: str
) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    if answers == "nobody listens":
        silent.close()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    try:
        with attached(tmp_path) as (path, pipeline):
            assert_reaped(path, pipeline)
            eventually(lambda: pipeline.sink_counts["spans"].dropped == 2, "the lost spans")
            assert lost(pipeline, "spans") == (2, 0)  # that of the scope and that of its worker
    finally:
        silent.close()


def test_http_hammered_by_idle_connections(tmp_path: Path) -> None:
    with running(tmp_path) as service, contextlib.ExitStack() as idle:
        for _ in range(200):
            idle.enter_context(connect(service))
        assert_reaped(str(tmp_path / "pipe"), service.pipeline)
        assert threading.active_count() < 50  # a connection costs no thread
        (reap,) = service.view.reaps.records()
        assert reap["elapsed_seconds"] - reap["after_seconds"] < ON_TIME_SECONDS
