"""The trace that a timer belongs to, and whether spans are wanted; needs no OpenTelemetry.

What the worker sent is W3C Trace Context, section 3.2.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TraceIds", "spans_wanted", "trace_ids"]

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
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environ.get("OTEL_TRACES_EXPORTER", "otlp").strip() not in ("", "otlp"):
        return False
    return bool(
        environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    )


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
