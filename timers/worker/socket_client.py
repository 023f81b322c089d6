"""The worker's side of the pair over a Unix socket."""

from __future__ import annotations

import os
import signal as signals
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsInt

from timers.transport.socket_path import check_path

from ._client_slots import ClientWithSlots
from ._lines import Lines
from ._socket_channel import SocketChannel
from .client import signal_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .slots.slot import Slot

__all__ = ["SocketTimerClient"]

_BOARD_VARIABLE = "TIMERS_BOARD"


class SocketTimerClient(ClientWithSlots):
    """The worker's side: its deadlines are in memory that the server reads.

    :param path: of the server's socket.
    :param signal: what the server sends to this worker on expiry, from 1 to 64; 0 or less means
        that an expiry is recorded (events, stack, counters) and nobody is killed.
    :param on_error: ``"raise"`` (the default) makes :meth:`acquire` raise ``BrokenPipeError`` when
        no server has ever been there; ``"warn"`` lets the block run unwatched until there is one,
        logs that once and counts it in :attr:`failures`. The environment's ``TIMERS_ON_ERROR`` is
        used when it is not given. A server that went away is no error: the next one is handed the
        board, and after ten seconds without one that is logged.
    :param server_users: ids of users, besides this one and root, whose server is accepted.
    :param connect_timeout: seconds that the first call waits for a server that is not there (yet).
    :param full_timeout: seconds that calls wait, all together, for a server that reads nothing;
        for what has no place on the board (more than 4096 scopes and threads) only.
    :raises ValueError: for an impossible signal, path or ``on_error``.

    Linux only. Safe from several threads, signal handlers and finalizers, and across fork (a child
    has timers of its own), and picklable. A process that uses it has one thread more, which
    sleeps. ``TIMERS_BOARD=off`` in the environment has each block sent as two messages instead.
    """

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
        self.signal = signal
        self._number = signal_number("SocketTimerClient", signal)
        self._path = check_path(os.fspath(path))
        self._server_users = frozenset(server_users)
        self._connect_timeout = connect_timeout
        self._full_timeout = full_timeout
        super().__init__(on_error)

    def _reset(self) -> None:
        super()._reset()
        self._channel = SocketChannel(
            self._path,
            self._server_users,
            Lines(self._number),
            self._errors,
            connect_timeout=self._connect_timeout,
            full_timeout=self._full_timeout,
            use_board=os.environ.get(_BOARD_VARIABLE) != "off",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        make = partial(
            type(self),
            on_error=self._errors.choice,
            server_users=self._server_users,
            connect_timeout=self._connect_timeout,
            full_timeout=self._full_timeout,
        )
        return make, (self._path, self._number)

    @property
    def failures(self) -> int:
        """How many requests found no server, with ``on_error="warn"``, before there was one."""
        return self._errors.failures + self._channel.unheard

    def _make_slot(self, scope: str, thread: int) -> Slot:
        return self._channel.make_slot(scope, thread)
