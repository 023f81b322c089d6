"""What a worker needs of the contract: the base of every client, and what it tells a server.

Apart from the servers, so that a worker does not pay for what it never uses. The names, arguments
and rules are those of ``torch.distributed.elastic.timer.api`` (torch 2.13).
"""

from __future__ import annotations

import abc
from typing import Any, SupportsInt

__all__ = ["TimerClient", "TimerRequest", "signal_number"]

_LAST_SIGNAL = 64  # signal(7)


def signal_number(client: str, signal: SupportsInt) -> int:
    """The number of the signal that ``client`` was given; 0 or less means none.

    :raises ValueError: there is no such signal.
    """
    number = int(signal)
    if not -_LAST_SIGNAL <= number <= _LAST_SIGNAL:
        raise ValueError(f"{client}(signal={signal!r}): signals go up to {_LAST_SIGNAL}")
    return number


class TimerRequest:
    """One acquire or, with a negative ``expiration_time``, one release.

    :param worker_id: identifies the worker; what it is, is between a client and its server.
    :param scope_id: names the block.
    :param expiration_time: wall-clock seconds since the epoch; negative for a release.
    """

    __slots__ = ["expiration_time", "scope_id", "worker_id"]
    __hash__ = None  # type: ignore[assignment]  # mutable and compared by value, as in torch

    def __init__(self, worker_id: Any, scope_id: str, expiration_time: float) -> None:
        self.worker_id = worker_id
        self.scope_id = scope_id
        self.expiration_time = expiration_time

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TimerRequest):
            return (
                self.worker_id == other.worker_id
                and self.scope_id == other.scope_id
                and self.expiration_time == other.expiration_time
            )
        return False

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(worker_id={self.worker_id!r}, scope_id={self.scope_id!r}, "
            f"expiration_time={self.expiration_time!r})"
        )


class TimerClient(abc.ABC):
    """What a worker holds: tells a server which of its timers run."""

    takes_deadlines = False
    """Whether ``expires`` hands :meth:`acquire` all that it knows of a block: a
    :class:`~timers.worker.scopes.Deadline` in place of a plain ``float``, which it subclasses."""

    @abc.abstractmethod
    def acquire(self, scope_id: str, expiration_time: float) -> None:
        """Start, or start again, the timer of ``scope_id``.

        :param expiration_time: wall-clock seconds since the epoch at which it expires.
        """

    @abc.abstractmethod
    def release(self, scope_id: str) -> None:
        """Stop the timer of ``scope_id``; allowed when there is none."""
