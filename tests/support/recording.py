"""An observer that keeps what it is told, and lets a test wait for it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from timers.events import Event

E = TypeVar("E", bound="Event")

__all__ = ["Recorder", "pid_of"]


class Recorder:
    """Keeps every event, in order. Safe from several threads."""

    def __init__(self, *, wants_requests: bool = False) -> None:
        self.wants_requests = wants_requests
        self.events: list[Event] = []
        self.flushes = 0
        self._news = threading.Condition()

    def emit(self, event: Event) -> None:
        with self._news:
            self.events.append(event)
            self._news.notify_all()

    def flush(self, timeout: float) -> bool:
        del timeout
        self.flushes += 1
        return True

    def of(self, kind: type[E], pid: int | None = None) -> list[E]:
        """The events of one class, of one worker if ``pid`` is given."""
        return [
            event
            for event in list(self.events)
            if isinstance(event, kind) and (pid is None or pid_of(event) == pid)
        ]

    def names(self, pid: int) -> list[str]:
        """What happened to one worker, in order."""
        return [event.name for event in list(self.events) if pid_of(event) == pid]

    def wait(
        self, kind: type[E], pid: int | None = None, *, count: int = 1, timeout: float = 60.0
    ) -> E:
        """Wait for the ``count``-th such event and return it; generous, see ``eventually``."""
        deadline = time.monotonic() + timeout
        with self._news:
            while len(found := self.of(kind, pid)) < count:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(
                        f"no {kind.__name__} number {count} of {pid} within {timeout:g} s: "
                        f"{self.events}"
                    )
                self._news.wait(left)
        return found[count - 1]


def pid_of(event: Event) -> int | str | None:
    """Which worker an event is about."""
    worker = getattr(event, "worker", None)
    if worker is None:
        found: int | str | None = getattr(event, "worker_pid", None)
        return found
    pid: int | str = worker.pid
    return pid
