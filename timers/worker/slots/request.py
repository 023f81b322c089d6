"""What a client says of one block: the same whatever it travels over."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .slot import NS, Block

if TYPE_CHECKING:
    from ._trace_context import ScopeSpan
    from .slot import Slot

__all__ = ["Request", "acquire", "timer_until"]

_LATEST = 2**33
"""Seconds since the epoch: the year 2242."""


class Request(NamedTuple):
    """One acquire or, with a negative ``expiration_time``, one release."""

    thread: int
    """Native id of the thread that entered the block, which need not be the one that leaves it."""
    scope_id: str
    expiration_time: float
    """Wall-clock seconds since the epoch."""
    deadline_ns: int = 0
    """The same on CLOCK_MONOTONIC."""
    after: float = 0.0
    nested: bool = False
    """Whether it is inside another block of this scope and thread."""
    leave: bool = False
    """Whether an inner block has ended, which restarts the countdown of this one."""
    error: str | None = None
    """Of a release or a leave: type name of the exception that leaves the block."""
    span: ScopeSpan | None = None
    warn_after: float | None = None
    missed: tuple[int, int] | None = None
    """None for what happens now. When this says how things stand: how many acquires and releases
    nothing was sent of."""

    @property
    def is_release(self) -> bool:
        """Whether it stops a timer."""
        return self.expiration_time < 0


def acquire(slot: Slot, block: Block, **others: Any) -> Request:
    """Return the request that starts the timer of ``block`` in ``slot``."""
    return Request(
        slot.thread,
        slot.scope,
        block.wall_ns / NS,
        block.deadline_ns,
        block.after,
        span=block.span,
        warn_after=block.warn_after,
        **others,
    )


def timer_until(scope_id: str, expiration_time: float) -> Block:
    """Return a timer for whoever calls ``client.acquire``.

    :param expiration_time: seconds since the epoch.
    :raises ValueError: it is not a number of seconds that a clock can show.
    """
    seconds = float(expiration_time)
    if not 0 <= seconds < _LATEST:
        raise ValueError(
            f"acquire({scope_id!r}, expiration_time={expiration_time!r}): must be seconds since the"
            " epoch, as time.time() has them"
        )
    wall_ns = int(seconds) * NS + int(seconds % 1 * NS)  # seconds * NS is too large for a float
    remaining_ns = wall_ns - time.time_ns()
    timer = Block(max(0, remaining_ns) / NS, None, None)
    timer.after_ns = max(0, remaining_ns)
    timer.wall_ns = wall_ns
    timer.started_ns = time.monotonic_ns()
    timer.deadline_ns = max(0, timer.started_ns + remaining_ns)
    return timer
