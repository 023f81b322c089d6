"""A real OTLP/HTTP receiver: what it is sent over a socket, decoded."""

from __future__ import annotations

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = ["Receiver", "attributes", "receiver"]


class Receiver:
    """What arrived so far."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        self.spans: list[Span] = []
        self.logs: list[LogRecord] = []
        self.resource: dict[str, object] = {}
        """Attributes of the resource that sent last."""

    def logged(self, name: str) -> list[LogRecord]:
        """The log records of one event, in the order of their arrival."""
        return [record for record in self.logs if record.event_name == name]

    def take_spans(self, body: bytes) -> bytes:
        request = ExportTraceServiceRequest.FromString(body)
        for each in request.resource_spans:
            self.resource = attributes(each.resource.attributes)
            self.spans.extend(span for scope in each.scope_spans for span in scope.spans)
        return bytes(ExportTraceServiceResponse().SerializeToString())

    def take_logs(self, body: bytes) -> bytes:
        request = ExportLogsServiceRequest.FromString(body)
        for each in request.resource_logs:
            self.resource = attributes(each.resource.attributes)
            self.logs.extend(record for scope in each.scope_logs for record in scope.log_records)
        return bytes(ExportLogsServiceResponse().SerializeToString())

    def named(self, name: str) -> list[Span]:
        """The spans of one name, in the order of their arrival."""
        return [span for span in self.spans if span.name == name]


def attributes(pairs: object) -> dict[str, object]:
    """The attributes of a span or of one of its events as a dictionary."""
    found: dict[str, object] = {}
    for pair in pairs:  # type: ignore[attr-defined]  # a protobuf container, which has no stubs
        kind = pair.value.WhichOneof("value")
        found[pair.key] = getattr(pair.value, kind)
    return found


@contextlib.contextmanager
def receiver() -> Iterator[Receiver]:
    """Receive on a free port of 127.0.0.1 until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # http.server's name
            body = self.rfile.read(int(self.headers["Content-Length"]))
            take = {"/v1/traces": found.take_spans, "/v1/logs": found.take_logs}[self.path]
            answer = take(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
