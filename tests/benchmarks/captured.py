"""The very bytes that our clients write for one block, taken from the clients themselves."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from typing import TYPE_CHECKING, NamedTuple

import timers
from timers.transport.fifo_reader import FifoReader

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Captured", "over_pipe", "over_socket"]


class Captured(NamedTuple):
    """What one block sends."""

    acquire: bytes
    release: bytes


@contextlib.contextmanager
def _without_board() -> Iterator[None]:
    """Have a client that is made meanwhile send each block, as it does for what has no room."""
    before = os.environ.get("TIMERS_BOARD")
    os.environ["TIMERS_BOARD"] = "off"
    try:
        yield
    finally:
        del os.environ["TIMERS_BOARD"]
        if before is not None:
            os.environ["TIMERS_BOARD"] = before


class over_pipe:  # noqa: N801  # used like a function
    """Call it for what a block writes into a pipe, in the name of the calling thread, now."""

    def __init__(self, after: float, scope: str) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self._reader = FifoReader(f"{self._directory.name}/pipe")
        self._block = timers.expires(after, scope, client=timers.FileTimerClient(self._reader.path))

    def __call__(self) -> Captured:
        with self._block:
            pass
        acquire, release = self._reader.read().splitlines(keepends=True)
        return Captured(acquire, release)


class over_socket:  # noqa: N801  # used like a function
    """The same for the packets of the socket pair."""

    def __init__(self, after: float, scope: str) -> None:
        self._directory = tempfile.TemporaryDirectory()
        path = f"{self._directory.name}/socket"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(path)
        listener.listen()
        with _without_board():
            client = timers.SocketTimerClient(path)
        self._block = timers.expires(after, scope, client=client)
        with self._block:
            pass
        self._connection = listener.accept()[0]
        listener.close()
        self._receive()

    def _receive(self) -> Captured:
        return Captured(self._connection.recv(4096), self._connection.recv(4096))

    def __call__(self) -> Captured:
        with self._block:
            pass
        return self._receive()
