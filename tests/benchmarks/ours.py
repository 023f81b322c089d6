"""Our own pairs as contenders, the floors below them, and the least that Python can do."""

from __future__ import annotations

import fcntl
import importlib
import importlib.util
import json
import os
import socket
import tempfile
import time
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import timers

from .bursts import DEEP, SHALLOW, Contender
from .captured import over_pipe, over_socket
from .serving import drained
from .waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .captured import Captured

__all__ = [
    "ALONE",
    "ASLEEP",
    "BUSY",
    "FLOOR",
    "FLOOR_UNREAD",
    "IN_PYTHON",
    "LEAST",
    "NOTHING",
    "SOCKET_FLOOR",
    "STOPPED",
    "TRACED",
    "blocks",
    "file_pair",
    "queue_pair",
    "socket_pair",
    "title",
]

FLOOR = "two bare writes of the same bytes, same server reading"
FLOOR_UNREAD = "two bare writes of the same bytes, nobody waiting for them"
SOCKET_FLOOR = "two bare sends of the same bytes, same server reading"
LEAST = "the least a Python block can do: clock, one f-string, write"
NOTHING = "a Python block that does nothing"
ALONE = "server asleep: "
"""What the names begin with of what is done once in a while, by a worker that meanwhile enters
blocks of which that server knows nothing: what is cold is the server."""
BUSY = "server asleep, worker at work: "
"""The same by one that does something else, so that its processor has forgotten what a block is."""
ASLEEP = "both asleep: "
"""The same by one that sleeps meanwhile, so that its processor has forgotten everything."""
STOPPED = "server stopped: "
"""The same of blocks whose server does nothing at all."""
IN_PYTHON = "Socket, named scope, without the accelerator"
TRACED = "File, named scope, inside a span"
_SCOPE = "all_reduce"
_AFTER = 600.0
_CAPACITY = 1 << 20
_ALONE_BURST, _ALONE_SECONDS = 20, 0.001
_DATA = bytes(1 << 16)
_SOCKET_BURST = 150
"""Fewer fit: each packet is kept by itself."""
QUEUE_BURST = 75
"""What fits into a pipe of the usual capacity, so that no put waits for the server."""


def title(pair: str, scope: str, depth: int) -> str:
    """What the row of a contender of :func:`blocks` is called."""
    return f"{pair}, {scope} scope, depth {depth}"


def blocks(pair: str, expires: Any, client: Any) -> Iterator[Contender]:
    """``with expires(...)`` in all its uses."""

    def named() -> None:
        with expires(_AFTER, _SCOPE, client=client):
            pass

    def unnamed() -> None:
        with expires(_AFTER, client=client):
            pass

    for depth in (SHALLOW, DEEP):
        yield Contender(title(pair, "named", depth), lambda: named, depth=depth)
        yield Contender(title(pair, "default", depth), lambda: unnamed, depth=depth)


def file_pair(path: str) -> Iterator[Contender]:
    """Everything that writes into a pipe of ours, which its server reads."""
    settle = partial(drained, path)
    capture = over_pipe(_AFTER, _SCOPE)
    served = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    yield Contender(FLOOR, partial(_two, os.write, served, capture), settle=settle)
    yield Contender(LEAST, partial(_least, served, capture), settle=settle)
    yield Contender(NOTHING, lambda: _nothing)
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _CAPACITY)
    yield Contender(
        FLOOR_UNREAD,
        partial(_two, os.write, writer, capture),
        settle=lambda: _discard(reader),
    )
    client = timers.FileTimerClient(path)
    for contender in blocks("File", timers.expires, client):
        yield contender._replace(settle=settle)
    yield from _one_by_one(served, capture, client)
    if importlib.util.find_spec("opentelemetry.sdk"):
        yield Contender(TRACED, partial(_traced, client), settle=settle)


def _one_by_one(served: int, capture: Callable[[], Captured], client: Any) -> Iterator[Contender]:
    named = next(blocks("File", timers.expires, client))
    for contender in (
        Contender(FLOOR, partial(_two, os.write, served, capture)),
        Contender(LEAST, partial(_least, served, capture)),
        Contender(NOTHING, lambda: _nothing),
        named,
    ):
        yield from _now_and_then(contender)


def _now_and_then(contender: Contender) -> Iterator[Contender]:
    for prefix, rest in ((ALONE, _enter_others()), (BUSY, _work), (ASLEEP, time.sleep)):
        yield contender._replace(
            name=prefix + contender.name, burst=_ALONE_BURST, pause=_ALONE_SECONDS, rest=rest
        )


@cache
def _enter_others() -> Callable[[float], None]:
    client = _of_stopped_server()

    def enter(seconds: float) -> None:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            with timers.expires(_AFTER, _SCOPE, client=client):
                pass

    return enter


def _work(seconds: float) -> None:
    """Go over data that fits into no cache of the first level, as a step does."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        sum(_DATA)


def socket_pair(path: str) -> Iterator[Contender]:
    """The same for the socket."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CAPACITY)
    connection.connect(path)
    capture = over_socket(_AFTER, _SCOPE)
    floor = partial(_two, lambda _, line: connection.send(line), 0, capture)
    yield Contender(SOCKET_FLOOR, floor, _SOCKET_BURST, _pause)
    client = timers.SocketTimerClient(path)
    for contender in blocks("Socket", timers.expires, client):
        yield contender._replace(burst=_SOCKET_BURST, settle=_pause)
    # What the accelerated class derives from, which is the same one where there is none.
    named = next(blocks("Socket", timers.expires.__mro__[-2], client))
    yield named._replace(name=IN_PYTHON, burst=_SOCKET_BURST, settle=_pause)
    named = next(blocks("Socket", timers.expires, client))
    yield from _now_and_then(named)
    named = next(blocks("Socket", timers.expires, _of_stopped_server()))
    yield named._replace(name=STOPPED + named.name, burst=_SOCKET_BURST, settle=_pause)


def _of_stopped_server() -> timers.SocketTimerClient:
    """Return a client whose server never does anything: to it, one that was stopped at once."""
    path = f"{tempfile.mkdtemp()}/socket"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()
    _stopped.append(listener)
    return timers.SocketTimerClient(path)


_stopped: list[socket.socket] = []


def queue_pair(queue: Any) -> Iterator[Contender]:
    """The pair over either kind of multiprocessing queue."""
    pair = f"Local, mp.{type(queue).__name__}"
    for contender in blocks(pair, timers.expires, timers.LocalTimerClient(queue)):
        yield contender._replace(burst=QUEUE_BURST, settle=lambda: taken(queue))


def taken(queue: Any) -> None:
    """Wait until the server has everything: the feeder thread has nothing left to send, then."""
    size = queue.qsize if hasattr(queue, "qsize") else lambda: 0
    until(lambda: queue.empty() and size() == 0, "the server reads its queue")


def _pause() -> None:
    time.sleep(0.02)


def _discard(reader: int) -> None:
    os.read(reader, _CAPACITY)


def _two(
    write: Callable[[int, bytes], int], fd: int, capture: Callable[[], Captured]
) -> Callable[[], None]:
    acquire, release = capture()

    def two() -> None:
        write(fd, acquire)
        write(fd, release)

    return two


class _Least:
    """Nothing is checked, shared, nested, counted or caught here."""

    __slots__ = ("_fd", "_offset_ns", "_release", "_start")

    def __init__(self, fd: int, start: str, release: bytes) -> None:
        self._fd = fd
        self._start = start
        self._release = release
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def __enter__(self) -> None:
        now = time.monotonic_ns()
        os.write(
            self._fd,
            (
                f'{self._start}, "expiration_time": {(now + self._offset_ns) / 1e9 + _AFTER!r}, '
                f'"signal": 9, "deadline_ns": {now + 600_000_000_000}, "after": {_AFTER!r}}}\n'
            ).encode(),
        )

    def __exit__(self, *_: object) -> None:
        os.write(self._fd, self._release)


class _Nothing:
    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def _nothing() -> None:
    with _Nothing():
        pass


def _least(fd: int, capture: Callable[[], Captured]) -> Callable[[], None]:
    acquire, release = capture()
    known = json.loads(acquire)
    who = {
        key: known[key]
        for key in ("version", "pid", "start_time", "thread", "scope_id")
        if key in known
    }
    start = json.dumps(who)[:-1]

    def block() -> None:
        with _Least(fd, start, release):
            pass

    return block


def _traced(client: Any) -> Callable[[], None]:
    trace: Any = importlib.import_module("opentelemetry.trace")
    sdk: Any = importlib.import_module("opentelemetry.sdk.trace")
    context: Any = importlib.import_module("opentelemetry.context")
    span = sdk.TracerProvider().get_tracer("benchmark").start_span("around")
    context.attach(trace.set_span_in_context(span))  # for the thread, which ends with the burst

    def traced() -> None:
        with timers.expires(_AFTER, _SCOPE, client=client):
            pass

    return traced
