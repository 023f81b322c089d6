"""The worker's side of the pair over a Unix socket."""

from __future__ import annotations

import os
import signal as signals
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsInt

from timers.transport.socket_path import check_path
from timers.transport.wire import MAX_LINE_BYTES, bounded

from ._request_lines import RequestLines
from ._socket_link import SocketLink
from .client import TimerClient, signal_number
from .on_error import ErrorPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SocketTimerClient"]

_TOLD_AGAIN_BYTES = 64
"""What a line is longer by when it is told again."""


class SocketTimerClient(TimerClient):
    """The worker's side: each acquire and release is one packet.

    :param path: of the server's socket.
    :param signal: what the server sends to this worker on expiry, from 1 to 64; 0 or less means
        that an expiry is recorded (events, stack, counters) and nobody is killed.
    :param on_error: ``"raise"`` (the default) makes :meth:`acquire` raise ``BrokenPipeError`` when
        no server has ever been there; ``"warn"`` lets the block run unwatched until there is one,
        logs that once and counts it in :attr:`failures`. The environment's ``TIMERS_ON_ERROR`` is
        used when it is not given. A server that went away is no error: the next one is told
        everything, and after ten seconds without one that is logged.
    :param server_users: ids of users, besides this one and root, whose server is accepted.
    :param connect_timeout: seconds that the first call waits for a server that is not there (yet).
    :param full_timeout: seconds that calls wait, all together, for a server that reads nothing.
        Those after them do not wait: what piles up is told as soon as there is room, by how things
        stand then.
    :raises ValueError: for an impossible signal, path or ``on_error``.

    Linux only. Safe from several threads and across fork (a child has timers of its own), and
    picklable. A process that uses it has one thread more, which sleeps.
    """

    takes_deadlines = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        signal: SupportsInt = signals.SIGKILL,
        *,
        on_error: str | None = None,
        server_users: Iterable[int] = (),
        connect_timeout: float = 1.0,
        full_timeout: float = 0.5,
    ) -> None:
        super().__init__()
        signal_number("SocketTimerClient", signal)
        self.signal = signal
        self._path = check_path(os.fspath(path))
        self._server_users = frozenset(server_users)
        self._errors = ErrorPolicy(on_error)
        self._connect_timeout = connect_timeout
        self._full_timeout = full_timeout
        self._reset()

    def _reset(self, *, reached: bool = False) -> None:
        self._lines = RequestLines()
        self._link = SocketLink(
            self._path,
            self._server_users,
            self._lines.released,
            keep_trying=self._errors.choice == "warn",
            connect_timeout=self._connect_timeout,
            full_timeout=self._full_timeout,
        )
        self._link.reached = reached
        _clients.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        make = partial(
            type(self),
            on_error=self._errors.choice,
            server_users=self._server_users,
            connect_timeout=self._connect_timeout,
            full_timeout=self._full_timeout,
        )
        return make, (self._path, int(self.signal))

    @property
    def failures(self) -> int:
        """How many requests found no server, with ``on_error="warn"``, before there was one."""
        return self._errors.failures

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        """Start, or start again, the timer of ``scope_id`` for the calling thread.

        :param expiration_time: wall-clock seconds since the epoch.
        :raises BrokenPipeError: there is, and was, no server (unless ``on_error="warn"``).
        :raises PermissionError: another user's server is there (likewise).
        :raises RuntimeError: the scope is too long (4032 bytes in all).
        """
        thread, base, marks, rest = self._lines.acquire(scope_id, expiration_time, int(self.signal))
        line = _packet(f"{base}{marks}{rest}}}\n")
        try:
            self._link.acquire((thread, scope_id), line, base, marks, rest)
        except OSError as error:
            self._errors.failed(error)

    def release(self, scope_id: str) -> None:
        """Stop the timer of ``scope_id`` of the calling thread; allowed when there is none.

        :raises BrokenPipeError: there is, and was, no server (unless ``on_error="warn"``).
        """
        thread, line = self._lines.release(scope_id)
        try:
            self._link.release((thread, scope_id), _packet(line + "}\n"))
        except OSError as error:
            self._errors.failed(error)

    def _after_fork(self) -> None:
        reached = self._link.reached
        self._link.forked()
        self._reset(reached=reached)


def _packet(line: str) -> bytes:
    data = line.encode("ascii")
    if len(data) > MAX_LINE_BYTES - _TOLD_AGAIN_BYTES:
        bounded(data.ljust(MAX_LINE_BYTES + 1))
    return data


_clients: weakref.WeakSet[SocketTimerClient] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client._after_fork()  # noqa: SLF001  # this module's own


os.register_at_fork(after_in_child=_after_fork_in_child)
