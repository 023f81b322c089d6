"""Event fields under the names of OpenTelemetry's log data model, and back.

The names of the record are those of the data model (``Timestamp``, ``SeverityText``, ``Body``);
attributes have those of the semantic conventions where there are such, else ``timers.`` and the
field's own name. Nothing is lost: :func:`from_otel` returns what :func:`to_otel` was given.
Source: opentelemetry.io/docs/specs/otel/logs/data-model.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SEVERITY_NUMBERS", "attributes_of", "from_otel", "nanoseconds", "to_otel"]

SEVERITY_NUMBERS = {"debug": 5, "info": 9, "warning": 13, "error": 17}
_RECORD = ("event", "level", "timestamp", "message", "trace_id", "span_id", "host", "run_id")
"""Fields that are no attributes."""
_TOP = {"EventName": "event", "SeverityText": "level", "Body": "message",
        "TraceId": "trace_id", "SpanId": "span_id"}  # fmt: skip
_RESOURCE = {"host.name": "host", "timers.run_id": "run_id"}
_CONVENTIONS = {
    "worker_pid": "process.pid",
    "thread": "thread.id",
    "exception": "exception.stacktrace",
}
_FIELDS = {name: field for field, name in _CONVENTIONS.items()}
_PREFIX = "timers."
_EPOCH = datetime.fromtimestamp(0, UTC)


def to_otel(fields: Mapping[str, Any], *, service: str = "timers") -> dict[str, Any]:
    """Rename the fields of an event.

    :param fields: those of :func:`observability.fields.to_fields`.
    :param service: the value of ``service.name``.
    """
    at = nanoseconds(fields["timestamp"])
    record = {
        "Timestamp": str(at),
        "SeverityText": fields["level"],
        "SeverityNumber": SEVERITY_NUMBERS[fields["level"]],
        "EventName": fields["event"],
        "Body": fields.get("message"),
        "TraceId": fields.get("trace_id"),
        "SpanId": fields.get("span_id"),
        "Resource": {
            "service.name": service,
            **{name: fields[field] for name, field in _RESOURCE.items() if field in fields},
        },
        "Attributes": attributes_of(fields),
    }
    return {name: value for name, value in record.items() if value is not None}


def attributes_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a log record: all fields for which the record has no name."""
    return {
        _CONVENTIONS.get(name, _PREFIX + name): value
        for name, value in fields.items()
        if name not in _RECORD
    }


def from_otel(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an event that :func:`to_otel` has renamed.

    What is missing or of another type, as in a line of somebody else, is left out.
    """
    fields = {field: record[name] for name, field in _TOP.items() if name in record}
    at, resource, attributes = (
        record.get(name) for name in ("Timestamp", "Resource", "Attributes")
    )
    if isinstance(at, str) and at.isascii() and at.isdigit():
        try:
            moment = _EPOCH + timedelta(microseconds=int(at) // 1000)
        except (OverflowError, ValueError):  # after the year 9999; thousands of digits
            pass
        else:
            text = moment.isoformat(timespec="microseconds")
            fields["timestamp"] = text.replace("+00:00", "Z")
    if isinstance(resource, dict):
        fields |= {field: resource[name] for name, field in _RESOURCE.items() if name in resource}
    if isinstance(attributes, dict):
        fields |= {
            _FIELDS.get(name, name.removeprefix(_PREFIX)): value
            for name, value in attributes.items()
        }
    return fields


def nanoseconds(timestamp: str) -> int:
    """Return RFC 3339 ``timestamp`` as nanoseconds since the epoch."""
    return (datetime.fromisoformat(timestamp) - _EPOCH) // timedelta(microseconds=1) * 1000
