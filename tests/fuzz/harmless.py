"""Servers that may be told anything: whom they would end, they only note.

Inputs that were made up name any process and any signal. These servers take requests of descendants
of this process only, and signal nobody at all.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from observability.fields import to_fields
from timers import FileTimerServer, SocketTimerServer
from timers.server.reaper import ReapPolicy

if TYPE_CHECKING:
    from timers.events import Event

__all__ = ["Flattening", "HarmlessFileServer", "HarmlessSocketServer", "options"]


class Flattening:
    """An observer that makes a log line of each event, and keeps what goes wrong in that."""

    wants_requests = True

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.events = 0

    def emit(self, event: Event) -> None:
        """Write it as the log does."""
        self.events += 1
        try:
            text = json.dumps(to_fields(event, host="h"), allow_nan=False, ensure_ascii=False)
            text.encode()
        except Exception as error:  # noqa: BLE001  # told by check()
            self.failures.append(error)

    def flush(self, timeout: float) -> bool:
        """Nothing is kept back."""
        del timeout
        return True

    def check(self) -> None:
        """Raise the first failure since the last time."""
        failures, self.failures = self.failures, []
        if failures:
            raise failures[0]


def options(observer: Flattening) -> dict[str, Any]:
    """The keywords of a server that does no harm."""
    return {
        "observer": observer,
        "policy": ReapPolicy(descendants_of=os.getpid()),
        "before_kill": lambda run_id, timers: None,  # noqa: ARG005  # torch's signature
    }


class HarmlessFileServer(FileTimerServer):
    """The pipe's server."""

    def _reap_worker(self, worker_id: int, signal: int = 9) -> bool:
        del worker_id, signal
        return True


class HarmlessSocketServer(SocketTimerServer):
    """The socket's server."""

    def _reap_worker(self, worker_id: int, signal: int = 9) -> bool:
        del worker_id, signal
        return True
