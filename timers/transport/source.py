"""What every server's end has in common: requests come out of it."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timers.worker.client import TimerRequest

    from .wire import Message, Rejection

__all__ = ["OwnedSource", "RequestQueue", "Source"]


class RequestQueue(abc.ABC):
    """Where a :class:`~timers.api.TimerServer` takes its requests from; it is the only consumer."""

    @abc.abstractmethod
    def size(self) -> int:
        """Return how many requests wait; by the time of :meth:`get` more may, never fewer."""

    @abc.abstractmethod
    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        """Return up to ``size`` requests, waiting for them at most ``timeout`` seconds in all."""


class Source(Protocol):
    """Where requests come from."""

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when requests wait; None when there is none."""
        ...

    def read(self, timeout: float) -> tuple[Sequence[Message], Sequence[Rejection]]:
        """Return all that is there now.

        :param timeout: seconds to wait for it, for a source without descriptor; others never wait.
        """
        ...


class OwnedSource(Source, Protocol):
    """A source that is closed by the server it is given to."""

    def close(self) -> None:
        """Give everything back. Idempotent."""
        ...
