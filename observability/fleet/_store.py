"""What an engine has to offer: a store of texts that all hosts of a job share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future


class StoreError(OSError):
    """The store is gone, or did not answer within its bound."""


class Store(Protocol):
    """Texts by key. Each call takes at most the seconds that the store was made with.

    :raises StoreError: from each method: the store is gone, or did not answer in time.
    """

    def add(self, key: str, amount: int) -> int:
        """Add to a number, which begins at 0; return it."""
        ...

    def set(self, key: str, text: str) -> None:
        """Store a text."""
        ...

    def set_first(self, key: str, text: str) -> str:
        """Store a text unless there is one; return what is there then."""
        ...

    def get(self, keys: Sequence[str]) -> list[str | None]:
        """Return what is there, None for what is not. Never waits for a key."""
        ...

    def wait(self, keys: Sequence[str], seconds: float) -> Future[bool]:
        """Begin to wait until all of them are there, for so long; whether they are by then.

        The future fails with :class:`StoreError` when the store is gone.
        """
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Remove texts."""
        ...
