"""What an engine has to offer: a store of texts that all hosts of a job share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future


class StoreError(OSError):
    """The store is gone, or did not answer within its bound."""


class Store(ABC):
    """Texts by key. Each call takes at most the seconds that the store was made with.

    An engine has a way to call (:meth:`_call`) and to wait. What a call returns is a stranger's
    word: only texts and numbers are passed on.

    :raises StoreError: from each method: the store is gone, or did not answer in time.
    """

    @abstractmethod
    def _call(self, method: str, *arguments: Any) -> Any:
        """Have the method of this name done where the texts are; return what it does."""

    @abstractmethod
    def wait(self, keys: Sequence[str], seconds: float) -> Future[bool]:
        """Begin to wait until all of them are there, for so long; whether they are by then.

        The future fails with :class:`StoreError` when the store is gone.
        """

    def close(self) -> None:  # noqa: B027  # most have nothing to let go of
        """Let go of the store. Idempotent."""

    def add(self, key: str, amount: int) -> int:
        """Add to a number, which begins at 0; return it."""
        found = self._call("add", key, amount)
        if not isinstance(found, int):
            raise StoreError("the store answers with something else than a number")
        return found

    def set(self, key: str, text: str) -> None:
        """Store a text."""
        self._call("set", key, text)

    def set_first(self, key: str, text: str) -> str:
        """Store a text unless there is one; return what is there then."""
        found = self._call("set_first", key, text)
        return found if isinstance(found, str) else ""

    def get(self, keys: Sequence[str]) -> list[str | None]:
        """Return what is there, None for what is not. Never waits for a key."""
        found = self._call("get", list(keys))
        if not isinstance(found, list) or len(found) != len(keys):
            raise StoreError("the store answers with something else than texts")
        return [text if isinstance(text, str) else None for text in found]

    def delete(self, keys: Sequence[str]) -> None:
        """Remove texts."""
        self._call("delete", list(keys))
