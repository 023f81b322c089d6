"""A timer server in a process of its own, under remote control; see ``support.remote``.

Arguments: the port of the test, the path of the pipe, ``max_interval``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timers
from support.recording import Recorder, pid_of
from support.remote import serve


class Server:
    """What a test can ask of it."""

    def __init__(self, path: str, max_interval: float) -> None:
        self._recorder = Recorder()
        self._server = timers.FileTimerServer(
            path, "run", max_interval=max_interval, observer=self._recorder
        )
        self._server.start()

    def requests(self) -> int:
        return self._server.statistics.requests

    def counts(self) -> dict[str, Any]:
        scopes = self._server.statistics.scopes
        return {
            scope: [found.acquires, found.releases, found.active, found.expirations]
            for scope, found in scopes.items()
        }

    def rejected(self) -> dict[str, int]:
        return {reason: n for reason, n in self._server.statistics.rejected.items() if n}

    def events(self) -> list[dict[str, Any]]:
        return [
            {
                "event": event.name,
                "pid": pid_of(event),
                "lateness": getattr(event, "lateness_seconds", None),
                "outcome": getattr(event, "outcome", None),
                "reason": getattr(event, "reason", None),
            }
            for event in list(self._recorder.events)
        ]

    def clocks(self) -> list[float]:
        return [time.time(), time.monotonic()]

    def fork(self) -> int:
        """A child that has nothing to do with timers, and stays."""
        pid = os.fork()
        if pid == 0:
            while True:
                signal.pause()
        return pid

    def stop(self) -> None:
        self._server.stop()


def main() -> None:
    port, path, max_interval = sys.argv[1:]
    serve(int(port), Server(path, float(max_interval)))


if __name__ == "__main__":
    main()
