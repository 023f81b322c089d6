"""The server's side of the Unix socket: any packets, empty ones, too long ones, with descriptors.

An input is packets with 0xff between them. The first byte of each says how it is sent: by itself,
with descriptors attached, or after connecting anew; an empty one hangs up.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from timers.transport.wire import MAX_LINE_BYTES

from . import wire_lines
from .harmless import Flattening, HarmlessSocketServer, options
from .reference import nesting, of_lines
from .sender import DONE, RECONNECT, SEND, SEND_WITH_DESCRIPTORS
from .target import HERE, Target
from .waiting import looked_again, soon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .target import Try

__all__ = ["TARGET", "SocketServer"]

_DEEP = 200
_MOST_PACKETS = 30


class SocketServer:
    """A server on a socket, a process that sends, and the account of what it sent."""

    def __init__(self, directory: str) -> None:
        path = f"{directory}/socket"
        self.observer = Flattening()
        self.server = HarmlessSocketServer(path, "fuzz", **options(self.observer))
        self.server.start()
        self._sender = subprocess.Popen(
            [sys.executable, HERE / "sender.py", path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._expected = 0
        self._order(RECONNECT)
        self._farewell()
        self._descriptors = 0

    def close(self) -> None:
        """End both."""
        with self._sender:
            assert self._sender.stdin is not None
            self._sender.stdin.close()
        self.server.stop()

    def _order(self, order: bytes, data: bytes = b"") -> None:
        assert self._sender.stdin is not None
        assert self._sender.stdout is not None
        self._sender.stdin.write(order + len(data).to_bytes(4, "big") + data)
        self._sender.stdin.flush()
        assert self._sender.stdout.read(1) == DONE, (order, data)

    def _send(self, order: bytes, data: bytes) -> None:
        self._order(order, data)
        # What is longer is cut by recvmsg(2), and has to be found too long.
        text = data[: MAX_LINE_BYTES + 1]
        for message, reason in of_lines(text if text.endswith(b"\n") else text + b"\n"):
            self._expected += (message is not None) + (reason is not None)

    def _farewell(self) -> None:
        """A last request that is in order: it has to be counted, with all before it."""
        self._send(SEND, b'{"pid": 1, "scope_id": "-", "expiration_time": -1, "signal": 0}')
        soon(lambda: self._accounted() >= self._expected, "every line is accounted for")

    def _accounted(self) -> int:
        statistics = self.server.statistics
        beside = statistics.rejected["unexpected_descriptor"]  # of lines that are counted as well
        return statistics.requests + sum(statistics.rejected.values()) - beside

    def try_one(self, data: bytes) -> None:
        """Send an input, and see every line of it accounted for and nothing kept."""
        if not self._descriptors:  # not before: libFuzzer opens files of its own when it begins
            self._descriptors = _descriptors()
        for part in data.split(b"\xff")[:_MOST_PACKETS]:
            if nesting(part) > _DEEP:
                continue  # see wire_lines
            packet = part[1:]
            if not packet:
                self._order(SEND)
                self._order(RECONNECT)  # who sends nothing is taken to have left
            elif part[0] % 4 == 3:
                self._order(RECONNECT)
                self._send(SEND, packet)
            else:
                self._send(SEND_WITH_DESCRIPTORS if part[0] % 4 == 2 else SEND, packet)
        self._farewell()
        looked_again(self.server)
        assert self._accounted() == self._expected
        assert self.server.statistics.rejected["internal_error"] == 0
        assert self.server.statistics.rejected["identity_mismatch"] == 0
        soon(lambda: _descriptors() <= self._descriptors, "descriptors are given back")
        self.observer.check()


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def _open() -> Iterator[Try]:
    with tempfile.TemporaryDirectory() as directory:
        server = SocketServer(directory)
        try:
            yield server.try_one
        finally:
            server.close()


TARGET = Target(
    "server on a Unix socket",
    _open,
    words=("wire", "socket"),
    longest=wire_lines.TARGET.longest,
)
