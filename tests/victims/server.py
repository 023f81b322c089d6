"""A timer server in a process of its own, under remote control; see ``support.remote``.

Arguments: the port of the test, the path of the pipe (or ``socket:`` and that of the socket),
``max_interval``.
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
        kind, _, socket_path = path.partition(":")
        self._server: timers.FileTimerServer | timers.SocketTimerServer
        if kind == "socket":
            self._server = timers.SocketTimerServer(
                socket_path, "run", max_interval=max_interval, observer=self._recorder
            )
        else:
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

    def open(self) -> list[tuple[int | str, str, float]]:
        """Pid, scope and expiration time of each open timer."""
        return [
            (running.worker.pid, running.timer.scope_id, running.timer.expiration_time)
            for running in self._server.running_timers()
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
