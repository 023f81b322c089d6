"""Events as log records over OTLP, in the trace of the scope that they are about.

Needs the ``otel`` extra, and only when the standard variables ask for it: records are exported when
``OTEL_EXPORTER_OTLP_LOGS_ENDPOINT`` is set, or ``OTEL_LOGS_EXPORTER`` is ``otlp`` and
``OTEL_EXPORTER_OTLP_ENDPOINT`` is set, unless ``OTEL_SDK_DISABLED`` is ``true``.

Decision: ``OTEL_EXPORTER_OTLP_ENDPOINT`` alone does not send logs: backends of traces refuse them,
and each refusal would be counted and alerted on as a loss.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from observability.fields import to_fields
from observability.sinks.bounded import fit
from observability.sinks.otel_names import SEVERITY_NUMBERS, attributes_of, nanoseconds
from observability.sinks.trace_ids import span_of_scope, spans_wanted
from observability.untrusted import this_host

from ._batches import Batches, export_timeout, resource

if TYPE_CHECKING:
    from observability.sinks.filters import EventFilter
    from observability.sinks.trace_ids import TraceIds
    from timers.events import Event

__all__ = ["LogRecordSink", "log_exporter_from_environment"]


def log_exporter_from_environment() -> LogRecordExporter:
    """Make the OTLP/HTTP exporter that the standard variables describe.

    :raises ImportError: the ``otel`` extra is not installed.
    """
    from opentelemetry.exporter.otlp.proto.http._log_exporter import (  # noqa: PLC0415  # an extra
        OTLPLogExporter,
    )

    return OTLPLogExporter(timeout=export_timeout("LOGS"))


class LogRecordSink:
    """A sink that exports events as log records, in batches.

    :param run_id: for events that carry none.
    :param interval: seconds, at most, for which a record waits for company.
    """

    name = "otlp_logs"

    def __init__(
        self,
        exporter: LogRecordExporter,
        events: EventFilter,
        *,
        run_id: str = "",
        interval: float = 1.0,
    ) -> None:
        self._exporter = exporter
        self._events = events
        self.wants_requests = events.wants_requests
        self._run_id = run_id
        self._host = this_host()
        # Where the spans of scopes are exported, too, a record refers to that of its scope also
        # where the worker does not trace.
        self._in_spans = spans_wanted(os.environ)
        self._resource = resource(run_id, self._host)
        self._scope = InstrumentationScope("expiration-timers")
        self._batches: Batches[ReadableLogRecord] = Batches(
            lambda batch: exporter.export(batch) is LogRecordExportResult.SUCCESS,
            interval=interval,
            name="timers-log-export",
        )

    @property
    def dropped(self) -> int:
        """Records that were lost: no room, or not taken by the collector."""
        return self._batches.dropped

    def __call__(self, event: Event) -> None:
        """Queue ``event``, if the filter lets it pass."""
        if not self._events.passes(event):
            return
        fields = fit(to_fields(event, run_id=self._run_id, host=self._host))
        ids = span_of_scope(event, self._run_id, self._host, derived=self._in_spans)
        record = LogRecord(
            timestamp=nanoseconds(fields["timestamp"]),
            context=_context(ids),
            severity_text=fields["level"],
            severity_number=SeverityNumber(SEVERITY_NUMBERS[fields["level"]]),
            body=fields["message"],
            attributes=attributes_of(fields),
            event_name=fields["event"],
        )
        self._batches.add(
            ReadableLogRecord(
                log_record=record, resource=self._resource, instrumentation_scope=self._scope
            )
        )

    def close(self) -> None:
        """Export what waits and shut the exporter down. A dead collector bounds itself."""
        self._batches.close()
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the SDK's


def _context(ids: TraceIds | None) -> Context:
    if ids is None or ids.span_id is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if ids.sampled else TraceFlags.DEFAULT)
    span = SpanContext(int(ids.trace_id, 16), int(ids.span_id, 16), is_remote=False,
                       trace_flags=flags)  # fmt: skip
    return set_span_in_context(NonRecordingSpan(span), Context())
