"""A store of texts in this process: what the engines of a fleet are to tests of the protocol."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from observability.fleet._store import Store, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MemoryStore"]


class MemoryStore(Store):
    """For any number of threads."""

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

    def _call(self, method: str, *arguments: Any) -> Any:
        with self._lock:
            self._ask()
            found = getattr(self, f"_{method}")(*arguments)
        self._notify()
        return found

    def _add(self, key: str, amount: int) -> int:
        total = int(self.texts.get(key, "0")) + amount
        self.texts[key] = str(total)
        return total

    def _set(self, key: str, text: str) -> None:
        self.texts[key] = text

    def _set_first(self, key: str, text: str) -> str:
        return self.texts.setdefault(key, text)

    def _get(self, keys: Sequence[str]) -> list[str | None]:
        return [self.texts.get(key) for key in keys]

    def _delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.texts.pop(key, None)

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

    def die(self) -> None:
        """End: every wait fails, and so does every further call."""
        self.is_gone = True
        self._notify()
