"""A timer service with nothing to do: real metrics over HTTP, of counts that follow a script.

    exporter.py RUN_ID KIND

prints ``ready PORT``. The kinds are below; each one does what a service of its kind would have
counted, ten times a second.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from observability.metrics import Metrics
from timers.events import Outcome
from timers.statistics import Statistics

TICK_SECONDS = 0.1
STALE_SECONDS = {"silent": 300.0, "leaving": 110.0}
"""How long ago these kinds last looked at their deadlines; others looked just now."""


class Losses(NamedTuple):
    """What a sink lost."""

    dropped: int
    errors: int


class Service:
    """The counts of one service, and what the metrics want to know of it."""

    def __init__(self, run_id: str, kind: str) -> None:
        self.run_id = run_id
        self.kind = kind
        self.counts = Statistics()
        self.statistics = (self.counts,)
        self.sink_counts = {"log": Losses(0, 0), "tracing": Losses(0, 0)}
        self._last_sweep = time.time() - STALE_SECONDS.get(kind, 0)
        self.counts.last_sweep = self._last_sweep
        self.counts.workers = 8

    def tick(self, number: int) -> None:
        """Count what happens in a tenth of a second."""
        near = self.kind == "near"
        self._block("train_step", 30.0, (4, 5, 5, 6, 7, 12)[number % 6])
        self._block("all_reduce", 10.0, (3, 5, 8.4, 6, 9.2, 7)[number % 6] if near else 2 + number % 3)
        if number % 10 == 0:
            self._block("save_checkpoint", 120.0, 45 + number % 40)
        if self.kind not in STALE_SECONDS:
            self.counts.last_sweep = time.time()
        if number >= 80 and number % 150 == 80:
            self._trouble()
        if self.kind == "failing" and number >= 60:
            self._failing(number)

    def _block(self, name: str, after: float, seconds: float) -> None:
        scope = self.counts.scope(name)
        scope.acquires += 1
        scope.releases += 1
        scope.active = 8 if name == "train_step" else 3
        scope.durations.observe(seconds)
        scope.ratios.observe(seconds / after)

    def _trouble(self) -> None:
        if self.kind == "reaping":
            self._reap("all_reduce", Outcome.KILLED)
            self.counts.dumped("py-spy", ok=True, seconds=0.009)
        if self.kind == "near":
            self._reap("train_step", Outcome.ESCALATED, late=2.5)
            self.counts.dumped("proc", ok=False, seconds=0.4)
            self.counts.rejected["not_json"] += 3
            self.sink_counts = {"log": Losses(12, 0), "tracing": Losses(0, 4)}

    def _failing(self, number: int) -> None:
        scope = self.counts.scope("save_checkpoint")
        if not scope.overdue:
            scope.overdue = 1
            scope.expirations += 1
            self.counts.lateness.observe(0.0004)
            self.counts.dumped("py-spy", ok=True, seconds=0.011)
        if number % 40 == 0:
            scope.reaps[Outcome.STILL_ALIVE] += 1

    def _reap(self, name: str, outcome: Outcome, late: float = 0.0007) -> None:
        scope = self.counts.scope(name)
        scope.acquires += 1
        scope.expirations += 1
        scope.reaps[outcome] += 1
        self.counts.lateness.observe(late)


def main() -> None:
    """Serve until killed."""
    service = Service(*sys.argv[1:3])
    service.tick(0)
    metrics = Metrics(service)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, content_type = metrics.exposition(self.headers.get("Accept"))
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"ready {server.server_port}\n")
    sys.stdout.flush()
    for number in itertools.count(1):
        time.sleep(TICK_SECONDS)
        service.tick(number)


if __name__ == "__main__":
    main()
