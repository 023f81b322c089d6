"""Spans of scopes, received by a real OTLP/HTTP receiver and compared by their ids."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

import observability
import timers
from observability.sinks.otlp.spans import SpanSink, exporter_from_environment
from observability.sinks.trace_ids import spans_wanted
from support.otlp import Receiver, attributes, receiver
from support.processes import victim
from support.waiting import eventually
from timers.events import (
    Event,
    Outcome,
    TimerInfo,
    TimerReleased,
    WorkerExited,
    WorkerInfo,
    WorkerKilled,
)
from timers.stacks import take as stacks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@contextlib.contextmanager
def traced_server(
    tmp_path: Path, collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> Iterator[timers.FileTimerServer]:
    """A server whose pipeline logs to a file and exports to the collector."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    server = timers.FileTimerServer(tmp_path / "pipe", "run-7", before_kill=_take)
    pipeline = observability.attach(server, events=tmp_path / "events.jsonl")
    server.start()
    try:
        yield server
    finally:
        server.stop()
        assert pipeline.close(10)


def _take(run_id: str, expired: dict[int, list[str]]) -> object:
    del run_id
    return {pid: stacks.take(pid) for pid in expired}


def run_worker(server: timers.FileTimerServer, mode: str, collector: Receiver) -> int:
    path = server._file_path
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "RANK": "3"}
    with victim("traced", path, mode, env=environment) as process:
        return process.wait(timeout=60)


def one(collector: Receiver, name: str) -> Span:
    spans = eventually(lambda: collector.named(name), f"a span named {name}")
    assert len(spans) == 1
    return spans[0]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.process
def test_span_of_scope_hangs_between_the_worker_s_own_spans(
    tmp_path: Path, collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with traced_server(tmp_path, collector, monkeypatch) as server:
        assert run_worker(server, "release", collector) == 0
        scope = one(collector, "step")
    train, inside = one(collector, "train"), one(collector, "inside")
    assert scope.parent_span_id == train.span_id
    assert inside.parent_span_id == scope.span_id
    assert scope.trace_id == train.trace_id == inside.trace_id
    assert scope.status.code == Status.STATUS_CODE_UNSET
    assert scope.start_time_unix_nano <= inside.start_time_unix_nano
    assert scope.end_time_unix_nano >= scope.start_time_unix_nano
    assert attributes(scope.attributes)["timers.rank"] == 3


@pytest.mark.process
def test_killed_worker_leaves_one_span_with_error_and_stack(
    tmp_path: Path, collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with traced_server(tmp_path, collector, monkeypatch) as server:
        assert run_worker(server, "stuck", collector) == -9
        scope = one(collector, "step")
    inside = one(collector, "inside")
    assert not collector.named("train")  # it died with the worker
    assert inside.parent_span_id == scope.span_id
    assert scope.status.code == Status.STATUS_CODE_ERROR
    events = {event.name: attributes(event.attributes) for event in scope.events}
    assert list(events) == ["timer expired", "stack dumped", "kill worker process"]
    assert "traced.py" in str(events["stack dumped"]["timers.stack"])
    assert " step" in str(events["stack dumped"]["timers.stack"])
    assert events["kill worker process"]["timers.outcome"] == "killed"
    logged = {line["event"]: line for line in lines(tmp_path / "events.jsonl")}
    kill = logged["kill worker process"]
    assert kill["trace_id"] == scope.trace_id.hex()
    assert kill["span_id"] == scope.span_id.hex()
    assert kill["rank"] == 3
    assert kill["run_id"] == "run-7"


@pytest.mark.process
def test_exception_in_the_block_is_the_span_s_status(
    tmp_path: Path, collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with traced_server(tmp_path, collector, monkeypatch) as server:
        assert run_worker(server, "raise", collector) == 0
        scope = one(collector, "step")
    assert scope.status.code == Status.STATUS_CODE_ERROR
    assert scope.status.message == "KeyError"


@pytest.mark.process
def test_exit_inside_the_scope_ends_the_span(
    tmp_path: Path, collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with traced_server(tmp_path, collector, monkeypatch) as server:
        assert run_worker(server, "exit", collector) == 0
        scope = one(collector, "step")
    assert scope.status.code == Status.STATUS_CODE_ERROR
    assert attributes(scope.attributes)["timers.ended_by"] == "worker exited"


@pytest.mark.process
def test_server_stop_ends_the_span(
    tmp_path: Path, collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
    with traced_server(tmp_path, collector, monkeypatch) as server:
        path = server._file_path
        with victim("traced", path, "wait", env=environment):
            eventually(server.running_timers, "the open timer")
            server.stop()
            scope = one(collector, "step")
    assert attributes(scope.attributes)["timers.ended_by"] == "watchdog stopped"


@pytest.mark.process
def test_scope_without_a_span_around_it_is_a_root(
    tmp_path: Path, collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with traced_server(tmp_path, collector, monkeypatch) as server:
        assert run_worker(server, "root", collector) == 0
        scope = one(collector, "step")
    assert scope.parent_span_id == b""
    inside = one(collector, "inside")
    assert inside.parent_span_id == scope.span_id
    assert inside.trace_id == scope.trace_id


def test_off_without_the_standard_variables() -> None:
    asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    assert not spans_wanted({})
    assert spans_wanted(asked)
    assert not spans_wanted({**asked, "OTEL_SDK_DISABLED": "true"})
    assert not spans_wanted({**asked, "OTEL_TRACES_EXPORTER": "none"})


def released(number: int) -> TimerReleased:
    timer = TimerInfo(
        scope_id=f"scope {number}", expiration_time=0.0, after_seconds=1.0, signal=9, thread=1
    )
    return TimerReleased(
        timestamp=1.0, worker=WorkerInfo(pid=1234), timer=timer, elapsed_seconds=0.5
    )


def test_dead_collector_loses_spans_by_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    exporter = exporter_from_environment()
    sink = SpanSink(exporter, interval=0.01)
    for number in range(1000):
        sink(released(number))
    sink.close()
    assert sink.dropped == 1000 + 1  # that of the worker


@pytest.mark.slow
def test_silent_collector_costs_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts and never answers
        port = silent.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        exporter = exporter_from_environment()
        sink = SpanSink(exporter, interval=0.01)
        for number in range(20_000):
            sink(released(number))
        assert len(sink._batches._waiting) <= 16_384
        sink.close()
    assert sink.dropped == 20_000 + 1  # that of the worker


@pytest.mark.parametrize("sampled", [True, False])
def test_sampling_decision_of_the_worker_holds(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch, *, sampled: bool
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    exporter = exporter_from_environment()
    sink = SpanSink(exporter, interval=0.01)
    for number, flags in enumerate(("01", "01" if sampled else "00")):
        timer = TimerInfo(
            scope_id=f"scope {number}",
            expiration_time=0.0,
            after_seconds=1.0,
            signal=9,
            traceparent=f"00-{'a' * 32}-{'b' * 16}-{flags}",
            span_id="c" * 16,
        )
        worker = WorkerInfo(pid=1234)
        sink(TimerReleased(timestamp=1.0, worker=worker, timer=timer, elapsed_seconds=0.5))
    sink.close()
    assert len(collector.spans) == (2 if sampled else 1)
    assert sink.dropped == 0


# -- one trace for each worker, and which spans there are ----------------------------------------


def finished(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch, *events: Event, kept: str = "all"
) -> list[Span]:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    exporter = exporter_from_environment()
    sink = SpanSink(exporter, interval=0.01, run_id="run-7", kept=kept)
    for event in events:
        sink(event)
    sink.close()
    return collector.spans


def plain(scope: str, elapsed: float, worker: WorkerInfo, **options: Any) -> TimerReleased:
    timer = TimerInfo(scope_id=scope, expiration_time=0.0, after_seconds=10.0, signal=9)
    return TimerReleased(
        timestamp=1000.0, worker=worker, timer=timer, elapsed_seconds=elapsed, **options
    )


FIRST, SECOND = WorkerInfo(pid=1, start_time=5, rank=0), WorkerInfo(pid=2, start_time=5, rank=1)


def test_the_scopes_of_a_worker_are_one_trace(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = finished(
        collector, monkeypatch,
        *(plain("step", 5.0, worker) for worker in (FIRST, SECOND) for _ in range(3)),
        WorkerExited(timestamp=1001.0, worker=FIRST),
    )  # fmt: skip
    roots = {span.name: span for span in spans if not span.parent_span_id}
    assert sorted(roots) == ["worker rank 0", "worker rank 1"]  # the second ended with the sink
    assert roots["worker rank 0"].start_time_unix_nano == 995 * 10**9
    assert roots["worker rank 0"].end_time_unix_nano == 1001 * 10**9
    for span in collector.named("step"):
        root = roots[f"worker rank {attributes(span.attributes)['timers.rank']}"]
        assert (span.parent_span_id, span.trace_id) == (root.span_id, root.trace_id)
    assert len({span.trace_id for span in spans}) == 2


def test_a_scope_without_an_id_of_its_own_stays_in_the_trace_of_its_worker(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = TimerInfo(
        scope_id="step", expiration_time=0.0, after_seconds=1.0, signal=9,
        traceparent=f"00-{'a' * 32}-{'b' * 16}-01",
    )  # fmt: skip
    (span,) = finished(
        collector, monkeypatch,
        TimerReleased(timestamp=1.0, worker=FIRST, timer=timer, elapsed_seconds=0.5),
    )  # fmt: skip
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == ("a" * 32, "b" * 16)
    assert span.span_id.strip(b"\0")


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ("all", ["failed", "quick", "slow"]),
        ("slow", ["failed", "slow"]),
        ("failed", ["failed"]),
    ],
)
def test_a_busy_job_need_not_flood_its_backend(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch, kept: str, expected: list[str]
) -> None:
    spans = finished(
        collector, monkeypatch,
        plain("quick", 1.0, FIRST), plain("slow", 8.0, FIRST),
        plain("failed", 1.0, FIRST, error="KeyError"),
        kept=kept,
    )  # fmt: skip
    assert sorted(span.name for span in spans if span.parent_span_id) == expected
    (failed,) = collector.named("failed")
    assert attributes(failed.attributes)["error.type"] == "KeyError"


def test_a_killed_scope_survives_head_sampling(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsampled = TimerInfo(
        scope_id="step", expiration_time=0.0, after_seconds=10.0, signal=9,
        traceparent=f"00-{'a' * 32}-{'b' * 16}-00", span_id="c" * 16,
    )  # fmt: skip
    killed = WorkerKilled(
        timestamp=1000.0, worker=FIRST, timer=unsampled, elapsed_seconds=11.0, signal=9,
        outcome=Outcome.KILLED, timers=((unsampled, 11.0),),
    )  # fmt: skip
    (span,) = finished(collector, monkeypatch, killed)
    assert span.name == "step"
    assert attributes(span.attributes)["error.type"] == "reaped"


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, "timers"),
        ({"OTEL_SERVICE_NAME": "llm"}, "llm"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=other,host.name=gpu-3"}, "other"),
    ],
)
def test_the_resource_says_which_service_on_which_host(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], name: str
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert finished(collector, monkeypatch, plain("step", 1.0, FIRST))
    found = collector.resource
    assert found["service.name"] == name
    host = "gpu-3" if "gpu-3" in str(environment) else socket.gethostname()
    assert found["host.name"] == host
    assert found["process.pid"] == os.getpid()
    assert found["timers.run_id"] == "run-7"
