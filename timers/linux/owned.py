"""Descriptors that are closed only while they are still this program's own.

A program that becomes a daemon closes every descriptor there is (closefrom(2)), these as well, and
opens files of its own that get their numbers. Closing by number then, at the end or in a forked
child, would close those. So what is held here is recognized by its inode before it is closed.

Eventfds, epoll instances, timerfds and the like all share one inode, which identifies none of
them: what wakes a thread up is a pipe here (:class:`Wakeup`), and an epoll instance is recognized
by what it watches.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import select
    import socket

__all__ = ["Identity", "Owned", "Pipe", "Wakeup", "close_epoll", "close_socket", "identity"]

Identity: TypeAlias = "tuple[int, int, str] | None"
"""Which file a descriptor is of; None for one that is closed, or that nothing identifies."""
_PIDFD = "anon_inode:[pidfd]"


def identity(fd: int) -> Identity:
    """Return what identifies the file of ``fd``, whatever the number may be of later."""
    try:
        found = os.fstat(fd)
        kind = "" if stat.S_IFMT(found.st_mode) else os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None
    # Files without a type share one inode; pidfds do so before Linux 6.9 alone.
    return (found.st_dev, found.st_ino, kind) if kind in ("", _PIDFD) else None


class Owned:
    """A descriptor of this process.

    :param fd: belongs to this object from then on.
    """

    __slots__ = ("_identity", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        """The number; -1 once it is closed."""
        self._identity = identity(fd)

    @property
    def is_ours(self) -> bool:
        """Whether the number still is of the file that it was."""
        return self._identity is not None and identity(self.fd) == self._identity

    def close(self) -> None:
        """Close it, if it is still ours. Idempotent, safe from any thread and in a child."""
        is_ours = self.is_ours
        fd, self.fd = self.fd, -1  # first: another thread may get the number at once
        if is_ours and fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


class Pipe(Owned):
    """Both ends of a pipe by one number, which never blocks."""

    __slots__ = ()

    def __init__(self) -> None:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # Linux lets a pipe be opened for both (fifo(7)); the two numbers are given back.
            path = f"/proc/self/fd/{reader}"
            super().__init__(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        finally:
            os.close(reader)
            os.close(writer)


class Wakeup(Pipe):
    """A descriptor that can be made readable, to wake up who waits for it."""

    __slots__ = ()

    def wake(self) -> None:
        """Make it readable. Safe from any thread, in signal handlers and after :meth:`close`."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):  # full: it is readable
                os.write(self.fd, b"\0")

    def clear(self) -> None:
        """Have it no longer readable."""
        with contextlib.suppress(OSError):
            os.read(self.fd, 4096)


def close_socket(connection: socket.socket, known: Identity) -> None:
    """Close ``connection`` if its number is still that of ``known``, else let go of the number."""
    if identity(connection.fileno()) == known:
        connection.close()
    else:
        connection.detach()


def close_epoll(epoll: select.epoll, watched: Identity) -> None:
    """Close ``epoll`` if its number is still that of an instance that watches ``watched``.

    Takes a descriptor for a moment; without one it stays open.
    """
    if epoll.closed or watched is None:
        return
    with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{epoll.fileno()}") as file:
        if f" ino:{watched[1]:x} " in file.read():
            epoll.close()
            return
    _foreign.append(epoll)


_foreign: list[select.epoll] = []
"""Kept for good, because they would close their number when they are forgotten."""
