"""Blocks into which something raises from outside, over every way to a server.

At each line of ours in turn, and at random, by a signal's handler and by PyThreadState_SetAsyncExc:
no block is armed after its end, none that is open is unprotected, and each acquire and release is
counted once (but over a queue, which may count one of an interrupted block too few).

``TIMERS_TEST_INTERRUPTS`` is into how many blocks is raised at random (300 by default).
"""

from __future__ import annotations

import abc
import contextlib
import ctypes
import functools
import gc
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from support.account import Account
from support.blocks import in_python
from support.board_server import BoardServer
from support.waiting import eventually
from timers import (
    FileTimerClient,
    LocalTimerClient,
    MultiprocessingRequestQueue,
    SocketTimerClient,
    expires,
)
from timers.transport.fifo_reader import FifoReader
from timers.transport.mp_queue import QueueSource
from timers.transport.wire import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from timers import TimerClient
    from timers.transport.socket_path import Listener

BLOCKS = int(os.environ.get("TIMERS_TEST_INTERRUPTS", "300"))
AFTER = 600.0
MOST_LINES = 2000


class Tick(BaseException):
    """Raised from outside."""


class Way(abc.ABC):
    """A client, and what its server makes of it."""

    counts_exactly = True
    is_in_c = False
    """Whether a plain block is entered and left without a line of Python."""
    expires = expires

    def __init__(self, client: TimerClient) -> None:
        self.client = client

    @abc.abstractmethod
    def seen(self) -> tuple[list[str], int, int]:
        """Which scopes are open, and how many acquires and releases there were."""

    def close(self) -> None:  # noqa: B027  # most have nothing to close
        """Give back what was made for it."""


class Messages(Way):
    """One whose blocks are sent."""

    def __init__(self, client: TimerClient, read: Callable[[], Any]) -> None:
        super().__init__(client)
        self._read, self._account = read, Account()
        with expires(AFTER, "first", client):
            pass

    def seen(self) -> tuple[list[str], int, int]:
        self._account.take(self._read())
        return self._account.open_scopes, *self._account.totals


class Board(Way):
    """One whose blocks are on a board."""

    def __init__(
        self, client: TimerClient, listener: Listener, kind: type[expires] = expires
    ) -> None:
        super().__init__(client)
        self.expires = kind
        self.is_in_c = kind is not in_python()
        with self.expires(AFTER, "first", client):
            pass
        self._server = BoardServer(listener)
        self._server.serve()

    def seen(self) -> tuple[list[str], int, int]:
        counts = self._server.counts.values()
        is_open = [slot.scope for slot in self._server.open]
        return is_open, sum(each[0] for each in counts), sum(each[1] for each in counts)

    def close(self) -> None:
        self._server.close()


def _packets(listener: Listener) -> Callable[[], Any]:
    connections: list[Any] = []
    decoder = Decoder()

    def read() -> Any:
        found = []
        with contextlib.suppress(BlockingIOError):
            connections.append(listener.connections.accept()[0])
        for connection in connections:
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while data := connection.recv(5000):
                    found += decoder.feed(data)[0]
        return found

    read.connections = connections  # type: ignore[attr-defined]  # to be closed
    return read


@pytest.fixture(params=["board", "board, in Python", "packets", "pipe", "queue"])
def way(
    request: pytest.FixtureRequest, path: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Way]:
    with contextlib.ExitStack() as ends:
        made: Way
        if request.param == "pipe":
            reader, decoder = FifoReader(path), Decoder()
            ends.callback(reader.close)
            made = Messages(FileTimerClient(path), lambda: decoder.feed(reader.read())[0])
        elif request.param == "queue":
            queue = multiprocessing.get_context("spawn").SimpleQueue()
            ends.callback(queue.close)
            source = QueueSource(MultiprocessingRequestQueue(queue))
            made = Messages(LocalTimerClient(queue), lambda: source.read(0.0)[0])
            made.counts_exactly = False
        else:
            listener = request.getfixturevalue("listener")
            if request.param == "packets":
                monkeypatch.setenv("TIMERS_BOARD", "off")
                read = _packets(listener)
                made = Messages(SocketTimerClient(path), read)
                ends.callback(lambda: [each.close() for each in read.connections])  # type: ignore[attr-defined]  # see there
            else:
                kind = expires if request.param == "board" else in_python()
                made = Board(SocketTimerClient(path), listener, kind)
        ends.callback(made.close)
        yield made


@functools.cache
def is_ours(path: str) -> bool:
    return f"{os.sep}timers{os.sep}" in path.replace("/tests/", "/") and not path.startswith(
        os.path.dirname(__file__)
    )


class AtLine:
    """Raises at the ``number``-th line of this package that is run."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "call" and not is_ours(frame.f_code.co_filename):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise Tick
        return self


def interrupted(at: AtLine, block: Callable[[], None]) -> bool:
    """Run ``block``; return whether it was interrupted."""
    before = sys.gettrace()
    gc.disable()  # a collection would run finalizers of other tests' objects, and raise there
    try:
        sys.settrace(at)
        block()
    except Tick:
        return True
    finally:
        sys.settrace(before)
        gc.enable()
    return False


def expect(way: Way, open_scopes: list[str]) -> None:
    """Wait until the server sees nothing else open, and nothing counted that is not so."""

    def holds() -> bool:
        found, acquires, releases = way.seen()
        if found != open_scopes:
            return False
        return not way.counts_exactly or acquires == releases + len(open_scopes)

    eventually(holds, f"open: {open_scopes}; it is {way.seen()}")


def one(way: Way) -> Callable[[], None]:
    kind, client = way.expires, way.client

    def block() -> None:
        with kind(AFTER, "x", client):
            pass

    return block


def nested(way: Way) -> Callable[[], None]:
    kind, client = way.expires, way.client

    def block() -> None:
        with kind(AFTER, "x", client), kind(AFTER, "x", client, warn_after=1):
            pass

    return block


@pytest.mark.parametrize("make", [one, nested])
@pytest.mark.parametrize("is_known", [True, False])
def test_an_exception_at_any_line_leaves_nothing_armed(
    way: Way, make: Callable[[Way], Callable[[], None]], *, is_known: bool
) -> None:
    block = make(way)
    if is_known:
        for _ in range(5):
            block()
    step = 1 if is_known else 7  # what is done once is long
    for number in range(1, MOST_LINES, step):
        if not interrupted(AtLine(number), block):
            break
        expect(way, [])
        with way.expires(AFTER, "x", way.client):
            expect(way, ["x"])
        expect(way, [])
    else:
        pytest.fail("it never came to its end")
    # In C there is no line at which anything could be raised.
    is_one_step = is_known and make is one and way.is_in_c
    assert number == 1 if is_one_step else number > 5


def test_an_exception_at_any_line_of_an_inner_block_leaves_the_outer_one_armed(way: Way) -> None:
    block = one(way)
    for _ in range(5):
        block()
    for number in range(1, MOST_LINES):
        with way.expires(AFTER, "x", way.client):
            was_interrupted = interrupted(AtLine(number), block)
            expect(way, ["x"])
        expect(way, [])
        if not was_interrupted:
            break
    assert number > 5


class Ticks:
    """Raises in the main thread at random, once each time it is armed."""

    def __init__(self) -> None:
        self.armed = False
        self.count = 0

    def arm(self, chance: random.Random) -> None:
        self.armed = True
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 60e-6))

    def disarm(self) -> None:
        self.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def __call__(self, *_: object) -> None:
        if self.armed:
            self.armed = False
            self.count += 1
            raise Tick


@contextlib.contextmanager
def by_signal() -> Iterator[Ticks]:
    ticks = Ticks()
    before = signal.signal(signal.SIGALRM, ticks)
    try:
        yield ticks
    finally:
        ticks.disarm()
        signal.signal(signal.SIGALRM, before)


class FromThread(Ticks):
    """The same, raised by another thread."""

    def __init__(self) -> None:
        super().__init__()
        self._wanted = threading.Semaphore(0)  # an event could be cleared after the next one is set
        self._ends = False
        self._seconds = 0.0
        self._target = threading.get_ident()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def arm(self, chance: random.Random) -> None:
        self._seconds = chance.uniform(1e-6, 60e-6)
        self.armed = True
        self._wanted.release()

    def disarm(self) -> None:
        with self._lock:
            if not self.armed:  # it has been set, and may be on its way
                time.sleep(0)
            self.armed = False

    def _run(self) -> None:
        set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
        while self._wanted.acquire() and not self._ends:
            time.sleep(self._seconds)
            with self._lock:
                if self.armed:
                    self.armed = False
                    self.count += 1
                    set_exception(ctypes.c_ulong(self._target), ctypes.py_object(Tick))

    def end(self) -> None:
        self._ends = True
        self._wanted.release()
        self._thread.join()


@contextlib.contextmanager
def by_thread() -> Iterator[Ticks]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    ticks = FromThread()
    try:
        yield ticks
    finally:
        ticks.end()
        sys.setswitchinterval(interval)


def _enter_until_interrupted(ticks: Ticks, way: Way, scope: str) -> None:
    while ticks.armed:
        with way.expires(AFTER, scope, way.client):
            pass


# One that is raised into a finalizer ends there, whoever wrote that: it is printed, no more.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(120 + BLOCKS // 100)
@pytest.mark.parametrize("source", [by_signal, by_thread])
def test_exceptions_at_random_leave_nothing_armed(
    way: Way, source: Callable[[], contextlib.AbstractContextManager[Ticks]]
) -> None:
    if isinstance(way.client, LocalTimerClient):
        pytest.skip("a put that waits for room is interrupted in the middle of its message")
    if source is by_thread and threading.gettrace() is not None:
        # The entry of a traced function is tried again for as long as something is pending for any
        # thread: it never ends where that thread waits for a lock that this one holds.
        pytest.skip("CPython 3.11 cannot run traced threads while one has an exception pending")
    chance = random.Random(BLOCKS)
    scopes = [f"step {number}" for number in range(20)]
    with source() as ticks:
        for number in range(BLOCKS):
            scope = scopes[number % len(scopes)]
            try:
                try:
                    ticks.arm(chance)
                    # A function, because a loop's jump back is in no "try" in CPython 3.13.
                    _enter_until_interrupted(ticks, way, scope)
                finally:
                    ticks.disarm()
            except Tick:
                pass
            if number % 100 == 0:
                gc.collect()
                expect(way, [])
        assert ticks.count == BLOCKS
    gc.collect()
    for scope in scopes:
        with way.expires(AFTER, scope, way.client):
            expect(way, [scope])
    expect(way, [])
