"""One OpenTelemetry span for each scope, exported by the server, whatever ended the scope.

The worker reserves the id (:mod:`timers.worker.slots._trace_context`), so its own spans hang above
and below this one. The scopes of a worker that does not trace hang below one span for the worker,
in one trace: its ids follow from the run and the worker, and it is exported when the worker has
ended. Only this module imports OpenTelemetry, and only when the standard variables ask for it:
spans are exported when ``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` is
set, unless ``OTEL_SDK_DISABLED`` is ``true`` or ``OTEL_TRACES_EXPORTER`` is ``none``.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import Event as SpanEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from observability.events import HangReported
from observability.fields import stack_fields
from observability.sinks.trace_ids import derived_ids, trace_ids
from observability.untrusted import encodable, printable, replaced, this_host
from timers.events import (
    Event,
    ReapFailed,
    StackDumped,
    TimerAcquired,
    TimerExpired,
    TimerInfo,
    TimerOverran,
    TimerReleased,
    WatchdogStopped,
    WorkerExited,
    WorkerInfo,
    WorkerKilled,
)
from timers.server.statistics import NEAR_MISS

from ._batches import Batches, export_timeout, resource

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["KEPT", "SpanSink", "exporter_from_environment"]

KEPT = ("all", "slow", "failed")
"""Which scopes become spans: each; those that used most of their time, expired or failed; or those
that failed."""

_NS = 1_000_000_000
_MAX_UNFINISHED = 10_000
"""Scopes whose expiry is remembered until they end."""
_MAX_EVENTS = 128
"""Of one span, the last ones: as many as the SDK keeps (OTEL_SPAN_EVENT_COUNT_LIMIT)."""
_MAX_STACK_CHARACTERS = 16_384

_Key = tuple[int | str, int | None, int | None, str]


def exporter_from_environment() -> SpanExporter:
    """Make the OTLP/HTTP exporter that the standard variables describe.

    :raises ImportError: the ``otel`` extra is not installed.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415  # an extra
        OTLPSpanExporter,
    )

    return OTLPSpanExporter(timeout=export_timeout("TRACES"))


@dataclass(slots=True)
class _WorkerSpan:
    """The span above the scopes of one worker, as far as it is known."""

    worker: WorkerInfo
    context: SpanContext
    start: float = math.inf


class SpanSink:
    """A sink that exports spans in batches, from a thread of its own.

    :param run_id: an attribute of the resource.
    :param kept: one of :data:`KEPT`.
    :param interval: seconds, at most, for which a finished span waits for company.
    """

    name = "spans"
    wants_requests = True
    ignored = (TimerAcquired,)

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        run_id: str = "",
        interval: float = 1.0,
        kept: str = "all",
    ) -> None:
        self._exporter = exporter
        self._kept = kept
        self._run_id = run_id
        self._host = this_host()
        self._resource = resource(run_id, self._host)
        self._workers: dict[tuple[int | str, int | None], _WorkerSpan] = {}
        self._scope = InstrumentationScope("expiration-timers")
        self._unfinished: dict[_Key, deque[SpanEvent]] = {}
        self._batches: Batches[ReadableSpan] = Batches(
            lambda batch: exporter.export(batch) is SpanExportResult.SUCCESS,
            interval=interval,
            name="timers-span-export",
        )

    @property
    def dropped(self) -> int:
        """Spans that were lost: no room, or not taken by the collector."""
        return self._batches.dropped

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
        if isinstance(event, WorkerKilled | WorkerExited):
            failed = isinstance(event, WorkerKilled) or bool(event.timers)
            self._finish_worker(event.worker, event.timestamp, failed=failed)

    def _note(
        self, event: Event, worker: WorkerInfo, timer: TimerInfo, attributes: dict[str, Any]
    ) -> None:
        events = self._unfinished.get(_key(worker, timer))
        if events is None:
            while len(self._unfinished) >= _MAX_UNFINISHED:
                del self._unfinished[next(iter(self._unfinished))]
            events = self._unfinished[_key(worker, timer)] = deque(maxlen=_MAX_EVENTS)
        events.append(SpanEvent(event.name, attributes, _ns(event.timestamp)))

    def _note_hang(self, event: HangReported) -> None:
        """The report belongs to each scope that has expired and not yet ended."""
        report = event.report
        attributes = _encodable(
            {"timers.hang.verdict": report.verdict.value, "timers.hang.sentence": report.sentence}
        )
        for events in self._unfinished.values():
            events.append(SpanEvent(event.name, attributes, _ns(event.timestamp)))

    def _finish(
        self, event: Event, worker: WorkerInfo, timer: TimerInfo, elapsed: float, status: Status
    ) -> None:
        events = self._unfinished.pop(_key(worker, timer), ())
        ids = trace_ids(timer.traceparent, timer.span_id)
        # What a reap was about is worth more than the share of traces that somebody wants to keep.
        if ids is not None and not ids.sampled and not isinstance(event, WorkerKilled):
            return
        if not self._is_kept(timer, elapsed, status, events):
            return
        own = ids if ids and ids.span_id else derived_ids(self._run_id, self._host, worker, timer)
        if ids is None:
            above = self._worker_span(worker)
            above.start = min(above.start, event.timestamp - elapsed)
            parent: SpanContext | None = above.context
        elif ids.parent_id is not None:
            parent = _context(ids.trace_id, ids.parent_id, remote=True)
        else:
            parent = None
        end = _ns(event.timestamp)
        span = ReadableSpan(
            name=encodable(timer.scope_id),
            context=_context((ids or own).trace_id, own.span_id),
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
        self._batches.add(span)

    def _is_kept(
        self, timer: TimerInfo, elapsed: float, status: Status, events: Collection[SpanEvent]
    ) -> bool:
        if self._kept == "all" or status.status_code is StatusCode.ERROR:
            return True
        near = 0 < timer.after_seconds <= elapsed / NEAR_MISS
        return self._kept == "slow" and (near or bool(events))

    def _worker_span(self, worker: WorkerInfo) -> _WorkerSpan:
        key = worker.pid, worker.start_time
        found = self._workers.get(key)
        if found is None:
            while len(self._workers) >= _MAX_UNFINISHED:
                del self._workers[next(iter(self._workers))]
            ids = derived_ids(self._run_id, self._host, worker)
            found = self._workers[key] = _WorkerSpan(worker, _context(ids.trace_id, ids.span_id))
        return found

    def _finish_worker(self, worker: WorkerInfo, end: float, *, failed: bool) -> None:
        found = self._workers.pop((worker.pid, worker.start_time), None)
        if found is None:
            return
        rank = "" if worker.rank is None else f" rank {worker.rank}"
        self._batches.add(
            ReadableSpan(
                name=f"worker{rank}",
                context=found.context,
                resource=self._resource,
                attributes=_known({**_who(worker), "timers.run_id": self._run_id or None}),
                kind=SpanKind.INTERNAL,
                status=Status(StatusCode.ERROR) if failed else Status(),
                start_time=_ns(max(0.0, min(found.start, end))),
                end_time=_ns(end),
                instrumentation_scope=self._scope,
            )
        )

    def close(self) -> None:
        """Export what is finished and shut the exporter down. A dead collector bounds itself."""
        for each in list(self._workers.values()):
            self._finish_worker(each.worker, time.time(), failed=False)
        self._batches.close()
        self._exporter.shutdown()


def _noted(event: Event) -> dict[str, Any] | None:
    """What the span of the event's timer says about it; None when the event is not for a span."""
    if isinstance(event, TimerOverran):
        return {"timers.elapsed_seconds": event.elapsed_seconds}
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


def _key(worker: WorkerInfo, timer: TimerInfo) -> _Key:
    return worker.pid, worker.start_time, timer.thread, timer.scope_id


def _ns(seconds: float) -> int:
    return int(seconds * _NS)


def _context(trace_id: str, span_id: str | None, *, remote: bool = False) -> SpanContext:
    own = int(span_id or "1", 16)
    return SpanContext(int(trace_id, 16), own, remote, TraceFlags(TraceFlags.SAMPLED))


def _attributes(event: Event, worker: WorkerInfo, timer: TimerInfo) -> dict[str, Any]:
    known = {
        "timers.run_id": event.run_id or None,
        "timers.scope_id": timer.scope_id,
        "timers.after_seconds": timer.after_seconds,
        "timers.ended_by": event.name,
        "thread.id": timer.thread,
        **_who(worker),
        "error.type": _error_type(event),
    }
    if isinstance(event, WorkerKilled):
        known |= {"timers.outcome": event.outcome.value, "timers.signal": event.signal}
    return _known(known)


def _who(worker: WorkerInfo) -> dict[str, Any]:
    return {
        "process.pid": worker.pid,
        "timers.rank": worker.rank,
        "timers.local_rank": worker.local_rank,
        "timers.restart_count": worker.restart_count,
    }


def _error_type(event: Event) -> str | None:
    if isinstance(event, TimerReleased):
        return printable(event.error) if event.error else None
    if isinstance(event, WorkerKilled):
        return "reaped"
    return "worker_exited" if isinstance(event, WorkerExited) else None


def _known(attributes: dict[str, Any]) -> dict[str, Any]:
    return _encodable({name: value for name, value in attributes.items() if value is not None})


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
