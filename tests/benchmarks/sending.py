"""A worker that sends requests as fast as they are taken, made beforehand by the real client."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING

from .captured import over_pipe

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["burst_of", "send"]

_AFTER = 3600.0
"""Nothing expires while it is measured."""
_SCOPES = 10
_AT_ONCE = 1 << 15


def burst_of(requests: int) -> bytes:
    """Acquires and releases by turns, of ten scopes, in the name of this thread."""
    captures = [over_pipe(_AFTER, f"scope {number}") for number in range(_SCOPES)]
    return b"".join(
        line for number in range(requests // 2) for line in captures[number % _SCOPES]()
    )


def send(connection: Connection, requests: int, core: int | None) -> None:
    """Serve the parent: tell it the burst, then take ``(path, seconds)`` until it ends us.

    With seconds 0 one burst is sent, else bursts are sent for as long, into a pipe that is full
    whenever the server cannot keep up.
    """
    if core is not None:
        os.sched_setaffinity(0, {core})
    burst = burst_of(requests)
    connection.send(burst)
    while True:
        path, seconds = connection.recv()
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        give_up = time.monotonic() + seconds
        sent = 0
        while _write(fd, burst):
            sent += 1
            if time.monotonic() >= give_up:
                break
        os.close(fd)
        connection.send(sent)


def _write(fd: int, burst: bytes) -> bool:
    """All of it: the server counts what it was sent."""
    view = memoryview(burst)
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    while view:
        try:
            view = view[os.write(fd, view[:_AT_ONCE]) :]
        except BlockingIOError:
            poll.poll()
    return True
