"""An HTTP server that keeps what is posted to it."""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Posted", "receiver"]


@dataclass
class Posted:
    """What came so far, and where to post it."""

    address: str
    requests: list[tuple[str, Any]] = field(default_factory=list)
    """Path and body, as JSON."""


@contextlib.contextmanager
def receiver() -> Iterator[Posted]:
    """Run the server until the block ends."""
    posted = Posted("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.requests.append((self.path, json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    posted.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield posted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
