"""A server at the socket that is handed boards, and does with them as a test wants."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

from timers.server.boards._board import Board, Slot
from timers.transport import board
from timers.transport.wire import BOARD, WAKE, Decoder

from .waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from timers.transport.socket_path import Listener
    from timers.transport.wire import Message

__all__ = ["BoardServer"]


class BoardServer:
    """Takes the next connection to a listener, and the board that comes over it."""

    def __init__(self, listener: Listener) -> None:
        self.connection: socket.socket = eventually(lambda: _accepted(listener))
        self.connection.setblocking(False)
        self.boards: list[Board] = []
        self.messages: list[Message] = []
        self.wakes = 0
        self._decoder = Decoder()

    def read(self) -> None:
        """Take all that lies there."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, descriptors, _, _ = socket.recv_fds(self.connection, 5000, 1)
                if not data:
                    return
                if data == BOARD:
                    [descriptor] = descriptors
                    self.boards.append(Board(descriptor))
                elif data == WAKE:
                    self.wakes += 1
                else:
                    messages, rejections = self._decoder.feed(data)
                    assert rejections == []
                    self.messages += messages

    @property
    def board(self) -> Board:
        """The last board that was handed over, waiting for it."""

        def found() -> Board | None:
            self.read()
            return self.boards[-1] if self.boards else None

        return eventually(found)

    def serve(
        self, look_ns: int = 0, *, wants: bool = False, sample: tuple[int, int] = (0, 0)
    ) -> Board:
        """Take the board over, as a server does, and say when it will look next."""
        own = self.board
        words = own.words
        words[board.SAMPLE_FROM_NS], words[board.SAMPLE_SHARE] = sample
        words[board.WANTS] = int(wants)
        words[board.SERVED] = time.time_ns()
        words[board.LOOK] = look_ns
        return own

    def wait(self, done: Callable[[], object]) -> None:
        """Read until something is so."""

        def holds() -> object:
            self.read()
            return done()

        eventually(holds)

    @property
    def open(self) -> list[Slot]:
        """Every open block, in the order of the slots."""
        return list(self.board.open_slots())

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Acquires and releases of each scope, of all slots."""
        own = self.board
        found: dict[str, tuple[int, int]] = {}
        for number in range(own.used):
            scope = own.scope(number)
            if scope is None:  # an interrupt came while it was made
                continue
            state = own.words[own.layout.states + number]
            extra = own.row(own.layout.infos, number, board.INFO_WORDS)[board.EXTRA]
            acquires, releases = found.get(scope, (0, 0))
            found[scope] = (
                acquires + (state >> board.DEPTH_BITS),
                releases + board.releases(state, extra),
            )
        return found

    def close(self) -> None:
        """Hang up, as a server that dies."""
        self.connection.close()


def _accepted(listener: Listener) -> socket.socket | None:
    try:
        return listener.connections.accept()[0]
    except BlockingIOError:
        return None
