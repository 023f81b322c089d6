"""What the sinks that export over OTLP share: the resource, the bound of one export, batches.

Decision: batches are made here and not by the SDK's processors, which drop without saying how many.
Everything that is lost, in a batch or at the exporter, is counted in :attr:`Batches.dropped`.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from opentelemetry.sdk.resources import Resource

from observability.untrusted import printable
from timers import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_BATCH = 512
_MAX_WAITING = 16_384
"""Items kept for a collector that does not keep up; further ones are dropped and counted."""
_EXPORT_TIMEOUT_SECONDS = 2.0
"""Unless the standard variables say otherwise: the exporter's own default of ten seconds, with its
retries, is longer than a service may take to stop."""


def resource(run_id: str, host: str) -> Resource:
    """Describe this process by semantic conventions; the standard variables have precedence."""
    ours: dict[str, Any] = {
        "service.name": "timers",
        "service.version": __version__,
        "host.name": host,
        "process.pid": os.getpid(),
    } | ({"timers.run_id": printable(run_id)} if run_id else {})
    said = Resource.create()
    unnamed = str(said.attributes.get("service.name", "")).startswith("unknown_service")
    given = {name: value for name, value in said.attributes.items()
             if not (name == "service.name" and unnamed)}  # fmt: skip
    return Resource({**ours, **given})


def export_timeout(kind: str) -> float | None:
    """Return the bound of one export in seconds; None where the standard variables set one.

    :param kind: ``TRACES`` or ``LOGS``.
    """
    names = (f"OTEL_EXPORTER_OTLP_{kind}_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
    return None if any(map(os.environ.get, names)) else _EXPORT_TIMEOUT_SECONDS


class Batches(Generic[T]):
    """Exports items in batches, from a thread of its own that the first item starts.

    :param export: tells whether a batch was taken. May raise, may block.
    :param interval: seconds, at most, for which an item waits for company.
    :param name: of the thread.
    """

    def __init__(self, export: Callable[[list[T]], bool], *, interval: float, name: str) -> None:
        self._export = export
        self._interval = interval
        self._name = name
        self._waiting: list[T] = []
        self._closed = False
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self.dropped = 0
        """Items that were lost: no room, or not taken by the collector."""

    def add(self, item: T) -> None:
        """Queue an item, or count it as dropped."""
        with self._condition:
            if self._closed or len(self._waiting) >= _MAX_WAITING:
                self.dropped += 1
                return
            self._waiting.append(item)
            if self._thread is None:
                self._start()
            elif len(self._waiting) == _BATCH:
                self._condition.notify()

    def close(self) -> None:
        """Export what waits. A dead collector bounds itself."""
        with self._condition:
            self._closed = True
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return  # no more threads to be had: the next item tries again
        self._thread = thread

    def _run(self) -> None:
        while True:
            with self._condition:
                if not self._closed and len(self._waiting) < _BATCH:
                    self._condition.wait(self._interval)
                batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
                if not batch and self._closed:
                    return
            if batch and not self._taken(batch):
                with self._condition:
                    self.dropped += len(batch)
                    if self._closed:  # nobody waits for a collector that is not there
                        self.dropped += len(self._waiting)
                        self._waiting.clear()

    def _taken(self, batch: list[T]) -> bool:
        try:
            return self._export(batch)
        except Exception:  # noqa: BLE001  # an exporter is somebody else's code
            return False
