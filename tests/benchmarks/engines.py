"""Our engine, and torch's server, with very many timers, each in a process of its own.

Both answer the same questions: what one request or expiry costs with so many timers running, and
how much memory the timers take.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import os
import random
import tempfile
import time
from typing import TYPE_CHECKING, Any

from timers.clock import SYSTEM_CLOCK
from timers.linux import procfs
from timers.server.reaper import ReapPolicy, Step
from timers.server.server import WatchdogServer
from timers.server.statistics import Statistics
from timers.server.watchdog import Watchdog
from timers.testing import FakeSource
from timers.transport.wire import Decoder

from .captured import over_pipe
from .serving import TORCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

__all__ = [
    "ACQUIRE",
    "CHURN",
    "EXPIRY",
    "MEMORY",
    "RELEASE",
    "ROUND",
    "STALL",
    "our_engine",
    "torch_server",
]

ACQUIRE, RELEASE, EXPIRY = "one acquire", "one release", "one expiry"
ROUND = "one round of its loop, which looks at every timer"
CHURN = "one request of many, what is put off included"
STALL = "the longest hundred requests of those"
MEMORY = "memory for one timer (growth of the resident set)"
_SCOPES = 100
_AT_ONCE = 50
_CHUNK = 1000
_HUNDRED = 100


def our_engine(connection: Connection, size: int, pids: list[int]) -> None:
    """Take up ``size`` timers, tell the memory of one, then answer the parent's wishes."""
    engine = _Engine(pids)
    gc.collect()
    before = _resident()
    for lines in engine.acquires(size):
        engine.apply(lines)
    connection.send({MEMORY: (_resident() - before) / size})
    while True:
        connection.send(engine.churn(size) if connection.recv() == CHURN else engine.sample())


class _Engine:
    """A watchdog of ours that is driven by hand, on the real clock."""

    def __init__(self, pids: list[int]) -> None:
        self._who = [(pid, procfs.start_time(pid)) for pid in pids]
        self._numbers = itertools.count()
        captured = over_pipe(3600.0, "scope")()
        self._acquire, self._release = json.loads(captured.acquire), json.loads(captured.release)
        self._decoder = Decoder()
        self._watchdog = Watchdog(
            FakeSource(),
            run_id="benchmark",
            statistics=Statistics(),
            policy=ReapPolicy(max_timers=2_000_000),
            clock=SYSTEM_CLOCK,
            observer=_Nobody(),
            before_kill=lambda _until: Step(lambda _run_id, _timers: None, keeps_bound=True),
            is_running=WatchdogServer.is_process_running,
        )

    def _next(self) -> dict[str, Any]:
        """Who sends the next request: another worker each time, then another scope and thread."""
        round_, which = divmod(next(self._numbers), len(self._who))
        pid, start_time = self._who[which]
        thread, scope = divmod(round_, _SCOPES)
        return {
            "pid": pid,
            "start_time": start_time,
            "thread": pid + thread,
            "scope_id": f"scope {scope}",
        }

    def acquire(self, who: dict[str, Any], *, after: float, signal: int = 9) -> bytes:
        deadline = {
            "expiration_time": time.time() + after,
            "deadline_ns": time.monotonic_ns() + int(after * 1e9),
            "after": after,
            "signal": signal,
        }
        return json.dumps({**self._acquire, **who, **deadline}).encode() + b"\n"

    def release(self, who: dict[str, Any]) -> bytes:
        return json.dumps({**self._release, **who}).encode() + b"\n"

    def acquires(self, size: int) -> Iterator[bytes]:
        """Of timers that run for hours, and end in no order."""
        for begin in range(0, size, _CHUNK):
            count = min(_CHUNK, size - begin)
            yield b"".join(self._far(self._next()) for _ in range(count))

    def _far(self, who: dict[str, Any]) -> bytes:
        return self.acquire(who, after=random.uniform(36_000, 72_000))

    def apply(self, lines: bytes) -> None:
        messages, rejections = self._decoder.feed(lines)
        assert not rejections, rejections[0]
        self._watchdog.apply(messages)

    def sample(self) -> dict[str, float]:
        """Time some acquires and releases, request by request, and one expiry."""
        who = [self._next() for _ in range(_AT_ONCE)]
        return {
            ACQUIRE: self._each([self._far(each) for each in who]),
            RELEASE: self._each([self.release(each) for each in who]),
            EXPIRY: self._expiry(self._next()),
        }

    def _each(self, lines: list[bytes]) -> float:
        started = time.perf_counter()
        for line in lines:
            self.apply(line)
        return (time.perf_counter() - started) / len(lines)

    def _expiry(self, who: dict[str, Any]) -> float:
        """From noticing to the start of the thread that would kill; this one only observes.

        CPU time of the sweeping thread: which thread runs first is not what is asked here.
        """
        self.apply(self.acquire(who, after=0.0, signal=0))
        expired = self._watchdog.statistics.lateness.counts
        before = sum(expired)
        started = time.thread_time()
        self._watchdog.sweep()
        seconds = time.thread_time() - started
        assert sum(expired) == before + 1
        assert self._watchdog.wait_for_reaps(60)
        self.apply(self.release(who))
        return seconds

    def churn(self, size: int) -> dict[str, float]:
        """Replace every timer by another once: whatever is put off comes in that time."""
        longest = total = 0.0
        hundreds = max(1, size // (_HUNDRED // 2))
        for _ in range(hundreds):
            who = [self._next() for _ in range(_HUNDRED // 2)]
            lines = b"".join(self._far(each) + self.release(each) for each in who)
            started = time.perf_counter()
            self.apply(lines)
            seconds = time.perf_counter() - started
            longest, total = max(longest, seconds), total + seconds
        return {CHURN: total / hundreds / _HUNDRED, STALL: longest}


class _Nobody:
    wants_requests = False

    def emit(self, event: object) -> None:
        """Not told further."""

    def flush(self, timeout: float) -> bool:
        del timeout
        return True


def torch_server(connection: Connection, size: int, pids: list[int]) -> None:
    """The same for torch's server; an expiry costs it a round, and so does each batch."""
    timer: Any = importlib.import_module(TORCH)
    with tempfile.TemporaryDirectory() as directory:
        server = timer.FileTimerServer(f"{directory}/pipe", "benchmark")

        def request(number: int, expires: float) -> Any:
            # As it reads them: every scope a string of its own.
            known = json.loads(json.dumps([pids[number % len(pids)], f"scope {number}"]))
            return timer.FileTimerRequest(*known, expires, 9)

        gc.collect()
        before = _resident()
        for begin in range(0, size, _CHUNK):
            numbers = range(begin, min(begin + _CHUNK, size))
            server.register_timers([request(number, time.time() + 36_000) for number in numbers])
        connection.send({MEMORY: (_resident() - before) / size})
        while True:
            connection.recv()
            acquires = [[request(size + number, time.time() + 36_000)] for number in range(50)]
            releases = [[request(size + number, -1)] for number in range(50)]
            found = {
                ACQUIRE: _timed(server.register_timers, acquires),
                RELEASE: _timed(server.register_timers, releases),
                ROUND: _timed(lambda now: _round(server, now), [time.time()]),
            }
            connection.send(found)


def _round(server: Any, now: float) -> None:
    """What its loop does after it has read, when nothing has expired."""
    assert not server.get_expired_timers(now)
    server.clear_timers(set())


def _timed(call: Callable[[Any], object], arguments: list[Any]) -> float:
    started = time.perf_counter()
    for argument in arguments:
        call(argument)
    return (time.perf_counter() - started) / len(arguments)


def _resident() -> int:
    found = procfs.stat(os.getpid())
    assert found
    return found.resident_bytes
