"""Servers in processes of their own that say what they have taken and what it cost them."""

from __future__ import annotations

import importlib
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import observability
import timers
from observability.http.address import Address
from observability.service import Service
from observability.settings import Settings
from timers.server.reaper import ReapPolicy

from .serving import TORCH
from .waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

__all__ = ["HOSTS", "LOGS", "METRICS", "SERVICE", "SPANS", "TORCH_SERVER", "Mark", "host"]

METRICS = "the server, with metrics"
SERVICE = "timers serve as it comes (metrics, HTTP, hang report)"
LOGS = "the server, with a log line for each request"
SPANS = "the server, with a span for each scope"
TORCH_SERVER = "torch's server"


class Mark(NamedTuple):
    """A server at one moment."""

    requests: int
    dropped: int
    """Events that its sinks were not given, for want of time."""
    cpu: float
    """Seconds, of everything in its process that is the server's."""
    time: float
    """On the monotonic clock."""


class _Host(NamedTuple):
    requests: Callable[[], int]
    settled: Callable[[], object] = lambda: None
    """Waits until everything that follows from the requests has been done."""
    dropped: Callable[[], int] = lambda: 0


def host(connection: Connection, kind: str, path: str, core: int | None) -> None:
    """Serve at ``path``; whenever the parent sends a count of requests, wait for it and mark."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    found = HOSTS[kind](path)
    connection.send("ready")
    while True:
        wanted = connection.recv()
        if wanted:
            until(partial(_has_taken, found, wanted), f"{kind} takes {wanted} requests")
            found.settled()
        # This thread does nothing but wait.
        cpu = time.process_time() - time.thread_time()
        connection.send(Mark(found.requests(), found.dropped(), cpu, time.monotonic()))


def _has_taken(found: _Host, wanted: int) -> bool:
    return found.requests() >= wanted


def _observed(server: timers.FileTimerServer, pipeline: observability.Pipeline) -> _Host:
    return _Host(
        lambda: server.statistics.requests,
        lambda: pipeline.flush(60),
        lambda: sum(counts.dropped for counts in pipeline.sink_counts.values()),
    )


def _attached(path: str, **options: Any) -> _Host:
    server = timers.FileTimerServer(path, "benchmark")
    pipeline = observability.attach(server, **options)
    server.start()
    return _observed(server, pipeline)


def _service(path: str) -> _Host:
    settings = Settings(run_id="benchmark", http=Address("127.0.0.1", 0), events=os.devnull)
    service = Service(path, settings, ReapPolicy())
    service.start()
    return _observed(service.server, service.pipeline)


def _spans(path: str) -> _Host:
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    from observability.sinks.otlp.spans import SpanSink

    class Nowhere(SpanExporter):
        """What remains is the cost of making spans."""

        def export(self, spans: object) -> SpanExportResult:
            del spans
            return SpanExportResult.SUCCESS

    return _attached(path, events=None, spans=False, sinks=[SpanSink(Nowhere())])


def _torch(path: str) -> _Host:
    # It counts what it has read at the end of each interval.
    server: Any = importlib.import_module(TORCH).FileTimerServer(path, "", max_interval=0.02)
    server.start()
    return _Host(lambda: int(server._request_count))


HOSTS: dict[str, Callable[[str], _Host]] = {
    METRICS: lambda path: _attached(path, events=None, spans=False),
    SERVICE: _service,
    LOGS: lambda path: _attached(path, events=os.devnull, level="debug", spans=False),
    SPANS: _spans,
    TORCH_SERVER: _torch,
}
"""By name: starts a server at a path."""
