"""Where it is noted that a message was sent, in the same step as it is sent.

An exception may come from outside between any two bytecodes (:mod:`timers.worker.slots.slot`). So
whoever writes to a descriptor stores ``receipt.sent`` on the same line, right before the one call
into C: what interrupts finds both done or neither.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Receipt", "Unnoted"]


class Receipt(Protocol):
    """Notes what was sent."""

    sent: tuple[int, int]
    """How many acquires and releases."""


class Unnoted:
    """The receipt of a message that is no news."""

    sent = (0, 0)
