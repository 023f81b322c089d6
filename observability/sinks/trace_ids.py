"""The trace that a timer belongs to, and whether spans are wanted; needs no OpenTelemetry.

What the worker sent is W3C Trace Context, section 3.2.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

from timers.events import TimerInfo, WorkerInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from timers.events import Event

__all__ = [
    "TraceIds",
    "derived_ids",
    "logs_wanted",
    "span_of_scope",
    "spans_wanted",
    "trace_ids",
]

# Version 00, and whatever later versions append.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_SPAN_ID = re.compile(r"(?!0{16})[0-9a-f]{16}")
_NO_PARENT = "0" * 16


class TraceIds(NamedTuple):
    """Hexadecimal ids, as in logs and headers."""

    trace_id: str
    parent_id: str | None
    """The worker's span around the scope; None when the scope's span is the root."""
    span_id: str | None
    """What the worker reserved for the scope's own span; None when it reserved none."""
    sampled: bool


def spans_wanted(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's standard variables ask for spans over OTLP."""
    if _is_disabled(environ):
        return False
    if environ.get("OTEL_TRACES_EXPORTER", "otlp").strip() not in ("", "otlp"):
        return False
    return bool(
        environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    )


def logs_wanted(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's standard variables ask for logs over OTLP, by name."""
    if _is_disabled(environ):
        return False
    exporter = environ.get("OTEL_LOGS_EXPORTER", "").strip()
    if environ.get("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"):
        return exporter in ("", "otlp")
    return exporter == "otlp" and bool(environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))


def _is_disabled(environ: Mapping[str, str]) -> bool:
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def trace_ids(traceparent: str | None, span_id: str | None = None) -> TraceIds | None:
    """Read what a worker sent; None when it sent nothing, or nothing that is valid."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if found is None:
        return None
    return TraceIds(
        trace_id=found[1],
        parent_id=None if found[2] == _NO_PARENT else found[2],
        span_id=span_id if _SPAN_ID.fullmatch(span_id or "") else None,
        sampled=bool(int(found[3], 16) & 1),
    )


def derived_ids(
    run_id: str, host: str, worker: WorkerInfo, timer: TimerInfo | None = None
) -> TraceIds:
    """Return the ids of what a worker that does not trace has no ids for.

    They follow from what is known, so that spans, logs and exemplars agree without asking each
    other. The trace is one for each run and worker; the span that of the scope that ``timer`` is
    for, below that of the worker, or without ``timer`` the one of the worker.
    """
    name = f"{run_id}\0{host}\0{worker.pid}\0{worker.start_time}"
    digest = _digest(name)
    trace_id, of_worker = digest[:32], digest[32:48]
    if timer is None:
        return TraceIds(trace_id, None, of_worker, sampled=True)
    # A thread is in one block of a scope at a time, each of which has its own deadline.
    block = f"{name}\0{timer.thread}\0{timer.scope_id}\0{timer.expiration_time:.6f}"
    return TraceIds(trace_id, of_worker, _digest(block)[:16], sampled=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def span_of_scope(event: Event, run_id: str, host: str, *, derived: bool) -> TraceIds | None:
    """Return the ids of the span of the scope that ``event`` is about; None when there is none.

    :param run_id: of the service, not of the event.
    :param derived: whether scopes of workers that do not trace have spans.
    """
    worker, timer = getattr(event, "worker", None), getattr(event, "timer", None)
    if not (isinstance(worker, WorkerInfo) and isinstance(timer, TimerInfo)):
        return None
    sent = trace_ids(timer.traceparent, timer.span_id)
    return sent or (derived_ids(run_id, host, worker, timer) if derived else None)
