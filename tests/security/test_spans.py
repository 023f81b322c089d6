"""What a worker can do to spans: its own are what it says, those of others stay."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

from observability.sinks.otlp.spans import SpanSink
from support.children import FORKS, waiting
from support.otlp import attributes, receiver
from support.waiting import eventually
from timers.server.observers.event_queue import Dispatcher
from victims.attacker import request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.otlp import Receiver
    from support.servers import FilePair

pytestmark = FORKS

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Traced:
    """A server whose spans arrive at a collector, and the pipe to it."""

    def __init__(self, files: FilePair, collector: Receiver) -> None:
        exporter = OTLPSpanExporter(endpoint=f"{collector.endpoint}/v1/traces", timeout=10)
        # One batch with everything in it.
        self.sink = SpanSink(exporter, interval=3600)
        self.observer = Dispatcher(self.sink, name="spans", wants_requests=True)
        self.server = files.server(observer=self.observer)
        self.pipe = os.open(files.path, os.O_WRONLY)
        self.collector = collector
        self._sent = 0

    def send(self, pid: int, scope: str, **fields: Any) -> None:
        """One line; it has been taken up when this returns."""
        os.write(self.pipe, request(pid, scope, **fields))
        self._sent += 1
        eventually(lambda: self._taken() == self._sent)

    def _taken(self) -> int:
        statistics = self.server.statistics
        return statistics.requests + sum(statistics.rejected.values())

    def release(self, pid: int, scope: str, **fields: Any) -> None:
        self.send(pid, scope, expiration_time=-1, **fields)

    def finish(self) -> None:
        """Export the spans of all that was sent, once the last block is left."""
        eventually(lambda: not self.server.running_timers())
        assert self.observer.flush(30)
        self.sink.close()

    def close(self) -> None:
        os.close(self.pipe)
        self.observer.close(10)


@pytest.fixture
def traced(files: FilePair) -> Iterator[Traced]:
    with receiver() as collector, contextlib.closing(Traced(files, collector)) as traced:
        yield traced


NONSENSE: list[dict[str, Any]] = [
    {"thread": 2**70},
    {"thread": -(2**70)},
    {"error": "\ud800"},
    {"error": "x" * 3000},
    {"deadline_ns": 1, "after": 9e9},
    {"traceparent": "00-" + "f" * 32 + "-" + "0" * 16 + "-01", "span_id": "g" * 16},
    {"traceparent": "\ud800\n" * 100, "span_id": "\ud800"},
    {"traceparent": f"00-{TRACE}-{PARENT}-01-" + "x" * 1000},
]


@pytest.mark.parametrize("fields", NONSENSE, ids=range(len(NONSENSE)))
def test_the_nonsense_of_one_worker_costs_others_no_span(
    traced: Traced, fields: dict[str, Any]
) -> None:
    error = {"error": fields["error"]} if "error" in fields else {}
    rest = {name: value for name, value in fields.items() if name != "error"}
    thread = {"thread": rest["thread"]} if "thread" in rest else {}
    with waiting() as good, waiting() as bad:
        for pid, scope, more in ((good, "before", {}), (bad, "bad", rest), (good, "after", {})):
            traced.send(pid, scope, seconds=60.0, **more)
        traced.release(good, "before")
        traced.release(bad, "bad", **error, **thread)
        traced.release(good, "after")
        traced.finish()
    assert {"before", "after"} <= {span.name for span in traced.collector.spans}
    assert traced.sink.dropped == 0


def test_ranks_that_are_no_numbers_cost_no_span(traced: Traced) -> None:
    environment = {**os.environ, "RANK": "9" * 30, "TORCHELASTIC_RESTART_COUNT": "9" * 4000}
    with (
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, env=environment) as odd,
        waiting() as good,
    ):
        for pid in (odd.pid, good):
            traced.send(pid, "step", seconds=60.0)
            traced.release(pid, "step")
        traced.finish()
    spans = traced.collector.named("step")
    assert [attributes(span.attributes)["process.pid"] for span in spans] == [odd.pid, good]
    assert "timers.rank" not in attributes(spans[0].attributes)


def test_a_worker_can_put_its_span_into_any_trace_but_not_under_anothers_pid(
    traced: Traced,
) -> None:
    with waiting() as worker:
        context = f"00-{TRACE}-{PARENT}-01"
        traced.send(worker, "mine", seconds=60.0, traceparent=context, span_id="00f067aa0ba902b7")
        traced.release(worker, "mine")
        traced.finish()
    [span] = traced.collector.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(span.attributes)["process.pid"] == worker


def test_a_timer_that_expires_again_and_again_does_not_grow_its_span_without_bound(
    traced: Traced,
) -> None:
    with waiting() as worker:
        for number in range(1, 301):
            # Restarted before it is released: one block, and one span.
            traced.send(worker, "again", number=0, seconds=0.0, thread=1)
            eventually(lambda number=number: _expirations(traced) == number)  # type: ignore[misc]  # bound
        traced.release(worker, "again", thread=1)
        traced.finish()
    [span] = traced.collector.named("again")
    assert 0 < len(span.events) <= 128


def _expirations(traced: Traced) -> int:
    return traced.server.statistics.scope("again").expirations
