"""The worker's side of tracing: the span of a scope is reserved here and exported by the server.

A span that ends in the worker dies with the worker, so the server emits it. So that it hangs in
the right place all the same, the worker chooses its id: the context it sends along names the span
around the block, and what the worker starts inside the block hangs under the reserved one.

Only a worker that uses OpenTelemetry itself takes part: this module never imports it, it looks
whether somebody has. ``TIMERS_TRACING=0`` in the environment, which ``timers run`` sets when it
exports no spans, turns it off, so that no trace refers to a span that nobody exports.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple


class ScopeSpan(NamedTuple):
    """The reserved span of one block."""

    traceparent: str
    """W3C Trace Context of the span around the block; its span id is zeros when there is none."""
    span_id: str
    """16 hexadecimal digits: the id that the server's span will have."""
    token: Any
    """What ends the validity of the context inside the block."""


_NO_PARENT = "0" * 16


def enter() -> ScopeSpan | None:
    """Reserve a span under the current one and make it current; None when nobody traces.

    For the thread or task that enters the block. Costs one dictionary look-up in a worker without
    OpenTelemetry.
    """
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    parent = trace.get_current_span().get_span_context()
    if not parent.is_valid:
        provider = type(trace.get_tracer_provider())
        if not provider.__module__.startswith("opentelemetry.sdk"):
            return None
    if os.environ.get("TIMERS_TRACING") == "0":
        return None
    if parent.is_valid:
        trace_id, flags = parent.trace_id, parent.trace_flags
        around = f"{parent.span_id:016x}"
    else:
        trace_id, flags, around = _random(16), trace.TraceFlags(1), _NO_PARENT
    span_id = _random(8)
    reserved = trace.NonRecordingSpan(
        trace.SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags)
    )
    context: Any = sys.modules["opentelemetry.context"]
    token = context.attach(trace.set_span_in_context(reserved))
    return ScopeSpan(f"00-{trace_id:032x}-{around}-{int(flags):02x}", f"{span_id:016x}", token)


def _random(size: int) -> int:
    return int.from_bytes(os.urandom(size), "big") or 1  # zero is no id


def leave(span: ScopeSpan) -> None:
    """End the validity of a reserved span; called where :func:`enter` was."""
    context: Any = sys.modules["opentelemetry.context"]
    context.detach(span.token)
