"""Sinks that behave, and sinks that do not."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timers.events import Event

__all__ = ["BlockingSink", "RaisingSink", "RecordingSink"]


class RecordingSink:
    """Keeps what it is given."""

    def __init__(self, name: str = "recording", *, wants_requests: bool = False) -> None:
        self.name = name
        self.wants_requests = wants_requests
        self.events: list[Event] = []
        self.closed = 0
        self.reopened = 0

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def reopen(self) -> None:
        self.reopened += 1

    def close(self) -> None:
        self.closed += 1


class RaisingSink:
    """Raises each time, and counts that it did."""

    def __init__(self, error: BaseException, name: str = "raising") -> None:
        self.name = name
        self.calls = 0
        self._error = error

    def __call__(self, _event: Event) -> None:
        self.calls += 1
        raise self._error


class BlockingSink(RecordingSink):
    """Blocks in each call until ``release`` is set; ``entered`` says that it does."""

    def __init__(self, name: str = "blocking") -> None:
        super().__init__(name)
        self.entered = threading.Event()
        self.release = threading.Event()

    def __call__(self, event: Event) -> None:
        self.entered.set()
        self.release.wait()
        super().__call__(event)
