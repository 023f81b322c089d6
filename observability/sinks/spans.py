"""One OpenTelemetry span for each scope, exported by the server, whatever ended the scope.

The worker reserves the id (:mod:`timers.worker._trace_context`), so its own spans hang above and
below this one; a scope of a worker that does not trace becomes a root span. Only this module
imports OpenTelemetry, and only when the standard variables ask for it: spans are exported when
``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` is set, unless
``OTEL_SDK_DISABLED`` is ``true`` or ``OTEL_TRACES_EXPORTER`` is ``none``.

Decision: spans are batched here and not by the SDK's ``BatchSpanProcessor``, which drops without
saying how many. Everything that is lost, in this batch or at the exporter, is counted in
:attr:`SpanSink.dropped`.
"""

from __future__ import annotations

import os
import secrets
import threading
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as SpanEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from observability.events import HangReported
from observability.fields import stack_fields
from observability.untrusted import encodable, printable, replaced
from timers.events import (
    Event,
    ReapFailed,
    StackDumped,
    TimerAcquired,
    TimerExpired,
    TimerInfo,
    TimerReleased,
    WatchdogStopped,
    WorkerExited,
    WorkerInfo,
    WorkerKilled,
)

from .trace_ids import spans_wanted, trace_ids

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SpanSink", "exporter_from_environment"]

_NS = 1_000_000_000
_BATCH = 512
_MAX_WAITING = 16_384
"""Spans kept for a collector that does not keep up; further ones are dropped and counted."""
_EXPORT_TIMEOUT_SECONDS = 2.0
"""Unless OTEL_EXPORTER_OTLP_(TRACES_)TIMEOUT says otherwise: the exporter's own default of ten
seconds, with its retries, is longer than a service may take to stop."""
_MAX_UNFINISHED = 10_000
"""Scopes whose expiry is remembered until they end."""
_MAX_EVENTS = 128
"""Of one span, the last ones: as many as the SDK keeps (OTEL_SPAN_EVENT_COUNT_LIMIT)."""
_MAX_STACK_CHARACTERS = 16_384

_Key = tuple[int | str, int | None, int | None, str]


def exporter_from_environment(environ: Mapping[str, str] | None = None) -> SpanExporter | None:
    """Make the OTLP/HTTP exporter that the standard variables describe; None when they do not.

    :raises ImportError: they do, and the ``otel`` extra is not installed.
    """
    environ = os.environ if environ is None else environ
    if not spans_wanted(environ):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415  # an extra
        OTLPSpanExporter,
    )

    chosen = environ.get("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT") or environ.get(
        "OTEL_EXPORTER_OTLP_TIMEOUT"
    )
    return OTLPSpanExporter(timeout=None if chosen else _EXPORT_TIMEOUT_SECONDS)


class SpanSink:
    """A sink that exports spans in batches, from a thread of its own.

    :param exporter: where spans go.
    :param run_id: an attribute of the resource.
    :param interval: seconds, at most, for which a finished span waits for company.
    """

    name = "spans"
    wants_requests = True
    ignored = (TimerAcquired,)

    def __init__(self, exporter: SpanExporter, *, run_id: str = "", interval: float = 1.0) -> None:
        self._exporter = exporter
        self._interval = interval
        self._resource = Resource.create({"timers.run_id": printable(run_id)} if run_id else {})
        self._scope = InstrumentationScope("expiration-timers")
        self._unfinished: dict[_Key, list[SpanEvent]] = {}
        self._waiting: list[ReadableSpan] = []
        self._exporting = 0
        self._closed = False
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self.dropped = 0
        """Spans that were lost: no room, or not taken by the collector."""

    def __call__(self, event: Event) -> None:
        """Take note of an event; the end of a scope makes a span."""
        attributes = _noted(event)
        timer = getattr(event, "timer", None)
        if attributes is not None and timer is not None:
            self._note(event, event.worker, timer, attributes)  # type: ignore[attr-defined]  # has both
        if isinstance(event, HangReported):
            self._note_hang(event)
        for worker, timer, elapsed, status in _ended(event):
            self._finish(event, worker, timer, elapsed, status)

    def _note(
        self, event: Event, worker: WorkerInfo, timer: TimerInfo, attributes: dict[str, Any]
    ) -> None:
        events = self._unfinished.get(_key(worker, timer))
        if events is None:
            while len(self._unfinished) >= _MAX_UNFINISHED:
                del self._unfinished[next(iter(self._unfinished))]
            events = self._unfinished[_key(worker, timer)] = []
        _add(events, SpanEvent(event.name, attributes, _ns(event.timestamp)))

    def _note_hang(self, event: HangReported) -> None:
        """The report belongs to each scope that has expired and not yet ended."""
        report = event.report
        attributes = _encodable(
            {"timers.hang.verdict": report.verdict.value, "timers.hang.sentence": report.sentence}
        )
        for events in self._unfinished.values():
            _add(events, SpanEvent(event.name, attributes, _ns(event.timestamp)))

    def _finish(
        self, event: Event, worker: WorkerInfo, timer: TimerInfo, elapsed: float, status: Status
    ) -> None:
        events = self._unfinished.pop(_key(worker, timer), [])
        ids = trace_ids(timer.traceparent, timer.span_id)
        if ids is not None and not ids.sampled:
            return
        trace_id = int(ids.trace_id, 16) if ids else secrets.randbits(128) or 1
        span_id = int(ids.span_id, 16) if ids and ids.span_id else secrets.randbits(64) or 1
        parent = None
        if ids is not None and ids.parent_id is not None:
            parent = _context(trace_id, int(ids.parent_id, 16), remote=True)
        end = _ns(event.timestamp)
        span = ReadableSpan(
            name=encodable(timer.scope_id),
            context=_context(trace_id, span_id, remote=False),
            parent=parent,
            resource=self._resource,
            attributes=_attributes(event, worker, timer),
            events=events,
            kind=SpanKind.INTERNAL,
            status=status,
            start_time=max(0, end - int(elapsed * _NS)),  # a worker may claim anything
            end_time=end,
            instrumentation_scope=self._scope,
        )
        with self._condition:
            if self._closed or len(self._waiting) >= _MAX_WAITING:
                self.dropped += 1
                return
            self._waiting.append(span)
            if self._thread is None:
                self._start()
            elif len(self._waiting) == _BATCH:
                self._condition.notify()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="timers-span-export", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return  # no more threads to be had: the next span tries again
        self._thread = thread

    def _run(self) -> None:
        while True:
            with self._condition:
                if not self._closed and len(self._waiting) < _BATCH:
                    self._condition.wait(self._interval)
                batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
                if not batch and self._closed:
                    return
            if batch and not self._export(batch):
                with self._condition:
                    self.dropped += len(batch)
                    if self._closed:  # nobody waits for a collector that is not there
                        self.dropped += len(self._waiting)
                        self._waiting.clear()

    def _export(self, batch: list[ReadableSpan]) -> bool:
        try:
            return self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception:  # noqa: BLE001  # an exporter is somebody else's code
            return False

    def close(self) -> None:
        """Export what is finished and shut the exporter down. A dead collector bounds itself."""
        with self._condition:
            self._closed = True
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join()
        self._exporter.shutdown()


def _noted(event: Event) -> dict[str, Any] | None:
    """What the span of the event's timer says about it; None when the event is not for a span."""
    if isinstance(event, TimerExpired):
        return {"timers.lateness_seconds": event.lateness_seconds}
    if isinstance(event, StackDumped):
        return _stack(event)
    if isinstance(event, ReapFailed | WorkerKilled):
        return {"timers.outcome": event.outcome.value, "timers.signal": event.signal}
    return None


def _ended(event: Event) -> list[tuple[WorkerInfo, TimerInfo, float, Status]]:
    """The scopes that ``event`` ended, with their worker, seconds and status."""
    if isinstance(event, TimerReleased):
        status = Status(StatusCode.ERROR, encodable(event.error)) if event.error else Status()
        return [(event.worker, event.timer, event.elapsed_seconds, status)]
    if isinstance(event, WorkerKilled):
        why = f"reaped: scope {event.timer.scope_id} overran {event.timer.after_seconds:g} s"
    elif isinstance(event, WorkerExited):
        why = "the worker exited inside the scope"
    elif isinstance(event, WatchdogStopped):
        return [(worker, timer, elapsed, Status()) for worker, timer, elapsed in event.timers]
    else:
        return []
    status = Status(StatusCode.ERROR, encodable(why))
    return [(event.worker, timer, elapsed, status) for timer, elapsed in event.timers]


def _add(events: list[SpanEvent], event: SpanEvent) -> None:
    if len(events) >= _MAX_EVENTS:
        del events[0]
    events.append(event)


def _key(worker: WorkerInfo, timer: TimerInfo) -> _Key:
    return worker.pid, worker.start_time, timer.thread, timer.scope_id


def _ns(seconds: float) -> int:
    return int(seconds * _NS)


def _context(trace_id: int, span_id: int, *, remote: bool) -> SpanContext:
    return SpanContext(trace_id, span_id, remote, TraceFlags(TraceFlags.SAMPLED))


def _attributes(event: Event, worker: WorkerInfo, timer: TimerInfo) -> dict[str, Any]:
    known = {
        "timers.run_id": event.run_id or None,
        "timers.scope_id": timer.scope_id,
        "timers.after_seconds": timer.after_seconds,
        "timers.ended_by": event.name,
        "process.pid": worker.pid,
        "thread.id": timer.thread,
        "timers.rank": worker.rank,
        "timers.local_rank": worker.local_rank,
        "timers.restart_count": worker.restart_count,
    }
    if isinstance(event, WorkerKilled):
        known |= {"timers.outcome": event.outcome.value, "timers.signal": event.signal}
    return _encodable({name: value for name, value in known.items() if value is not None})


def _encodable(attributes: dict[str, Any]) -> dict[str, Any]:
    # What cannot be encoded would take the spans of others along.
    return replaced(attributes, str, encodable)  # type: ignore[no-any-return]  # stays a dictionary


def _stack(event: StackDumped) -> dict[str, Any]:
    fields = stack_fields(event.dump, event.timer)
    stack = "\n".join(
        line
        for thread in fields.pop("stack", None) or ()
        for line in (f"Thread {thread.get('thread')} ({thread.get('name')})", *thread["frames"])
    )
    known = {f"timers.{name}": value for name, value in fields.items() if value is not None}
    return _encodable({**known, "timers.stack": stack[:_MAX_STACK_CHARACTERS]})
