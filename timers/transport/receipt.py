"""Where it is noted that a message was sent, in the same step as it is sent.

An exception may come from outside between any two bytecodes (:mod:`timers.worker.slots.slot`). So
whoever writes to a descriptor stores ``receipt.sent`` on the same line, right before the one call
into C: what interrupts finds both done or neither. In the same step it makes sure that
nobody has sent anything else meanwhile: a signal's handler may, while a message is put together.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["OvertakenError", "Receipt", "Unnoted", "is_of_system"]


class Receipt(Protocol):
    """Notes what was sent."""

    sent: tuple[int, int]
    """How many acquires and releases."""
    before: tuple[int, int]
    """The same when it was decided what to send."""


class Unnoted:
    """The receipt of a message that is no news."""

    sent = before = (0, 0)


class OvertakenError(Exception):
    """Something else has been sent meanwhile, and this is to be decided anew."""


def is_of_system(error: BaseException) -> bool:
    """Whether a system call failed, rather than a signal's handler raised an error of its kind."""
    return isinstance(error, OSError) and error.errno is not None
