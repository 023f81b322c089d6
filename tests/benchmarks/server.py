"""What one request costs the server, with whoever is told of it, beside the bare parse.

CPU time of the whole process, sinks and their threads included, for one request: half of them are
acquires, half releases, so a scope costs twice as much. Bursts are flushed before the clock is
read, so that nothing is dropped and everything is paid for.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import timers
from observability.log import LogSink
from observability.metrics import Metrics
from observability.pipeline import Pipeline
from timers import procfs
from timers.wire import Decoder

from .table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROUNDS = 20
_REQUESTS = 4000
_BASE = "json.loads of each line, nothing else"


@contextlib.contextmanager
def _lines() -> Iterator[bytes]:
    """What a client sends for two thousand scopes, in the name of a process that lives."""
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    start_time = procfs.start_time(process.pid)
    who = f'{{"version": 1, "pid": {process.pid}, "start_time": {start_time}, "thread": 1'
    now = time.monotonic_ns()
    text = "".join(
        f'{who}, "scope_id": "scope {number % 10}", "expiration_time": {time.time() + 60}, '
        f'"signal": 9, "deadline_ns": {now + 60_000_000_000}, "after": 60.0}}\n'
        f'{who}, "scope_id": "scope {number % 10}", "expiration_time": -1, "signal": 0}}\n'
        for number in range(_REQUESTS // 2)
    )
    try:
        yield text.encode()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _parse(data: bytes) -> list[float]:
    lines = data.splitlines()
    samples = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        for line in lines:
            json.loads(line)
        samples.append((time.process_time() - started) / len(lines))
    return samples


def _serve(data: bytes, pipeline: Pipeline) -> list[float]:
    with tempfile.TemporaryDirectory() as directory:
        server = timers.FileTimerServer(f"{directory}/pipe", "benchmark", observer=pipeline)
        pipeline.watch(server.statistics)
        decoder = Decoder()
        samples = []
        for _ in range(_ROUNDS):
            started = time.process_time()
            server._watchdog.apply(*decoder.feed(data))
            assert pipeline.flush(60)
            samples.append((time.process_time() - started) / _REQUESTS)
        assert server.statistics.requests == _ROUNDS * _REQUESTS
        assert not any(counts.dropped for counts in pipeline.sink_counts.values())
        server.stop()
        pipeline.close()
        return samples


def _scrape(data: bytes) -> list[float]:
    with tempfile.TemporaryDirectory() as directory:
        pipeline = Pipeline()
        server = timers.FileTimerServer(f"{directory}/pipe", "benchmark", observer=pipeline)
        pipeline.watch(server.statistics)
        server._watchdog.apply(*Decoder().feed(data))
        metrics = Metrics(pipeline)
        samples = []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            metrics.exposition()
            samples.append(time.perf_counter() - started)
        server.stop()
        return samples


def _with_spans() -> Pipeline | None:
    try:
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        from observability.tracing import SpanSink
    except ImportError:
        return None

    class Nowhere(InMemorySpanExporter):
        """Takes spans and keeps none: what remains is the cost of making them."""

        def export(self, spans):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            result = super().export(spans)
            self.clear()
            return result

    return Pipeline(SpanSink(Nowhere()))


def rows() -> Iterator[Row]:
    """Measure on one core's worth of CPU time."""
    with _lines() as data:
        yield Row(_BASE, _parse(data))
        yield Row("the server, with metrics", _serve(data, Pipeline()), base=_BASE)
        log = LogSink(os.devnull, level="debug")
        yield Row("... and a log line for each request", _serve(data, Pipeline(log)), base=_BASE)
        spans = _with_spans()
        if spans is not None:
            yield Row("... and a span for each scope", _serve(data, spans), base=_BASE)
        yield Row("one scrape, 10 scopes", _scrape(data), unit="ms")
