"""A store of texts in this process: what the engines of a fleet are to tests of the protocol."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from observability.fleet._store import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MemoryStore"]


class MemoryStore:
    """A :class:`observability.fleet._store.Store`, for any number of threads."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.calls = 0
        """How often it was asked anything."""
        self.is_gone = False
        self._lock = threading.Lock()
        self._waits: list[tuple[Sequence[str], Future[bool]]] = []

    def _ask(self) -> None:
        self.calls += 1
        if self.is_gone:
            raise StoreError("the store is gone")

    def add(self, key: str, amount: int) -> int:
        with self._lock:
            self._ask()
            total = int(self.texts.get(key, "0")) + amount
            self.texts[key] = str(total)
        self._notify()
        return total

    def set(self, key: str, text: str) -> None:
        with self._lock:
            self._ask()
            self.texts[key] = text
        self._notify()

    def set_first(self, key: str, text: str) -> str:
        with self._lock:
            self._ask()
            found = self.texts.setdefault(key, text)
        self._notify()
        return found

    def get(self, keys: Sequence[str]) -> list[str | None]:
        with self._lock:
            self._ask()
            return [self.texts.get(key) for key in keys]

    def wait(self, keys: Sequence[str], seconds: float) -> Future[bool]:
        """Begin to wait; without a thread, so that only a key or the end of the store ends it."""
        del seconds
        future: Future[bool] = Future()
        with self._lock:
            self._ask()
            self._waits.append((keys, future))
        self._notify()
        return future

    def _notify(self) -> None:
        with self._lock:
            ready = [
                (keys, future)
                for keys, future in self._waits
                if self.is_gone or all(key in self.texts for key in keys)
            ]
            self._waits = [each for each in self._waits if each not in ready]
        for _, future in ready:
            if self.is_gone:
                future.set_exception(StoreError("the store is gone"))
            else:
                future.set_result(True)

    def delete(self, keys: Sequence[str]) -> None:
        with self._lock:
            self._ask()
            for key in keys:
                self.texts.pop(key, None)

    def die(self) -> None:
        """End: every wait fails, and so does every further call."""
        self.is_gone = True
        self._notify()
