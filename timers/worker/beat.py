"""A heartbeat: a deadline for the next call, in place of one for the end of a block."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .scopes import expires

if TYPE_CHECKING:
    from .client import TimerClient

__all__ = ["beat"]


class _Beats(threading.local):
    def __init__(self) -> None:
        self.open: dict[str, expires] = {}


_beats = _Beats()
# A forked child has those of its parent, as it has any block that was open, and ends nothing with
# them. To drop them before the clients know of the fork would send the release of a block dropped.


def beat(scope: str, *, after: float | None, client: TimerClient | None = None) -> None:
    """Say that a loop goes on: the worker may be reaped when the next beat is late.

    For loops in which a block does not fit::

        for batch in batches:
            timers.beat("train", after=60)
            ...
        timers.beat("train", after=None)

    The time from one beat to the next is counted like that of a block. A scope belongs to the
    thread that beats; the end of a thread ends its beats. Not to be used with the scope of a block
    around it.

    :param scope: names the loop.
    :param after: seconds until the next beat is late, as for :class:`expires`; None: there will
        be none, the loop has ended. One that was never begun may be ended.
    :param client: as for :class:`expires`.
    :raises RuntimeError: there is no client at all.
    :raises ValueError: ``after`` is negative or not finite.
    :raises TypeError: ``after`` is not a number or ``scope`` not a string.
    """
    following = None if after is None else expires(after, scope, client)
    last = _beats.open.pop(scope, None)
    if last is not None:
        last.__exit__(None, None, None)
    if following is not None:
        following.__enter__()
        _beats.open[scope] = following
