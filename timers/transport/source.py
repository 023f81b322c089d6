"""What every server's end has in common: requests come out of it."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import TypeAlias

    from timers.worker.client import TimerRequest

    from .wire import Message, Rejection

    OnDescriptor: TypeAlias = Callable[[int, int | None, bytes, int], Rejection | None]
    """Takes a packet that brought a descriptor along: ``(pid, start_time, data, descriptor)``.

    Who sent it is vouched for by the kernel, as for messages (``start_time`` is -1 for a process
    that had ended, None when it could not be read). The descriptor is close-on-exec and belongs to
    the callee from then on, whatever it returns: None, or why the packet is refused. Called on the
    watchdog's thread, while a source is read: must neither block nor raise."""

__all__ = ["BoardSource", "OwnedSource", "RequestQueue", "Source"]


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

    def read(
        self, timeout: float, pids: Collection[int] = ()
    ) -> tuple[Sequence[Message], Sequence[Rejection]]:
        """Return some of what is there, so that nobody has to wait for long for the next call.

        :param timeout: seconds to wait for it, for a source without descriptor; others never wait.
        :param pids: of these processes, everything that they have sent until now.
        """
        ...


@runtime_checkable
class BoardSource(Protocol):
    """A source over which workers can hand over their boards."""

    on_descriptor: OnDescriptor | None
    """Takes each packet that brings a descriptor along, in place of the decoder. Without it the
    descriptor is closed, and counted as refused."""
    on_wake: Callable[[int], None] | None
    """Takes the pid of a worker whose board is to be looked at now. Called likewise."""


class OwnedSource(Source, Protocol):
    """A source that is closed by the server it is given to."""

    def close(self) -> None:
        """Give everything back. Idempotent."""
        ...
