"""Two web servers with Python's standard library in them, one of which stops answering."""

from __future__ import annotations

import itertools
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LIBRARY = Path(os.__file__).parent
ANSWERS = 10
"""How many requests the tired mirror answers."""


class Mirror(SimpleHTTPRequestHandler):
    """Serves the library, and does not log that it does."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args, directory=str(LIBRARY))  # type: ignore[arg-type]  # the server's own

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


class TiredMirror(Mirror):
    """Answers a few requests; after that it accepts connections and never says a word."""

    requests = itertools.count(1)

    def do_GET(self) -> None:
        """Answer, or be silent for ever."""
        if next(self.requests) > ANSWERS:
            threading.Event().wait()
        super().do_GET()


def serve(handler: type[Mirror]) -> str:
    """Start a server in the background and return its address, ``HOST:PORT``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"127.0.0.1:{server.server_port}"
