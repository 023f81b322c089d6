"""Several sources of requests as one, for a server that listens in more than one place."""

from __future__ import annotations

import os
import select
import weakref
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timers.server.watchdog import Source

    from .wire import Message, Rejection

__all__ = ["OwnedSource", "Sources"]


class OwnedSource(Protocol):
    """A source with a descriptor that whoever is given it closes."""

    def fileno(self) -> int:
        """A descriptor that is readable when requests wait."""
        ...

    def read(self, timeout: float) -> tuple[Sequence[Message], Sequence[Rejection]]:
        """All that is there now."""
        ...

    def close(self) -> None:
        """Give everything back. Idempotent."""
        ...


class Sources:
    """What ``sources`` have, one after the other; each must have a descriptor.

    A worker that uses two of them is one worker: both name it by pid and start time.

    For the watchdog's thread; closes itself in a forked child. The sources are not closed by it.
    """

    def __init__(self, *sources: Source) -> None:
        self._sources = sources
        self._epoll = select.epoll()
        for source in sources:
            fd = source.fileno()
            if fd is None:
                raise ValueError(f"{source!r} has no descriptor to wait on")
            self._epoll.register(fd, select.EPOLLIN)
        _open.add(self)

    def fileno(self) -> int:
        """A descriptor that is readable when one of the sources is."""
        return self._epoll.fileno()

    def read(self, timeout: float) -> tuple[Sequence[Message], Sequence[Rejection]]:
        """All that any of them has now. Never waits."""
        del timeout
        messages: list[Message] = []
        rejections: list[Rejection] = []
        for source in self._sources:
            found, refused = source.read(0.0)
            messages += found
            rejections += refused
        return messages, rejections

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        _open.discard(self)
        self._epoll.close()


_open: weakref.WeakSet[Sources] = weakref.WeakSet()


def _close_in_child() -> None:
    for sources in list(_open):
        sources.close()


os.register_at_fork(after_in_child=_close_in_child)
