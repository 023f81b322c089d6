"""Blocks on boards, where nobody sends anything: what is left for the server to do.

Workers that enter and leave blocks as fast as they can; and a million blocks that are open at
once, in 256 processes. Beside both some get stuck, one after the other. A pass is one look at
every board; the server itself looks at each board when something on that one is due.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import timers
from timers.linux import procfs

from .apart import running
from .lateness import Noticed
from .table import Row
from .waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

    from .effort import Effort

__all__ = ["BUSY", "LATE", "MILLION", "NOTICED", "PASS", "Crowd", "crowds", "rows", "title"]

MILLION = "CPU of the server for a million blocks of one worker"
BUSY = "CPU of the server, of one core, beside 64 workers that enter and leave blocks"
LATE = "from a deadline to noticed, beside these"
PASS, NOTICED = "one pass over all boards", "from a deadline to noticed"
BOARD, SERVER = "memory of its board for one block", "memory of the server for one block"
_FORKED = """
import contextlib, os, sys, time
import timers
path, workers, blocks, stuck = sys.argv[1], *map(int, sys.argv[2:])

def ready():
    os.write(1, b".")

def told():
    return os.read(0, 1)

for number in range(workers):
    if os.fork() == 0:
        timers.configure(timers.SocketTimerClient(path))
        try:
            work(number)
        finally:
            os._exit(0)
time.sleep(3600)
"""
_MILLION = """
def work(number):
    ready()
    while told():
        for _ in range(blocks):
            with timers.expires(60, "step"):
                pass
        ready()
"""
_BUSY = """
def work(number):
    ready()
    while True:
        with timers.expires(600, "step"):
            pass
"""
_OPEN = """
def work(number):
    with contextlib.ExitStack() as entered:
        for block in range(blocks):
            entered.enter_context(timers.expires(36_000, f"scope {block}"))
        ready()
        if number < stuck:
            told()
            with timers.expires(0.5 * (number + 1), "stuck"):
                time.sleep(3600)
        time.sleep(3600)
"""


class Crowd(NamedTuple):
    """So many workers, each with so many blocks open."""

    workers: int
    blocks: int


def crowds(effort: Effort) -> tuple[Crowd, Crowd]:
    """A few blocks each, and about as many as a board has slots."""
    return effort.of((Crowd(256, 20), Crowd(256, 3_907)), (Crowd(2, 20), Crowd(2, 100)))


def title(what: str, crowd: Crowd) -> str:
    """What a row of the table is called."""
    return f"{what}, {crowd.workers * crowd.blocks:,} open in {crowd.workers} workers"


def rows(effort: Effort) -> Iterator[Row]:
    """Measure."""
    with _served() as (ask, path), _crowd(_MILLION, path, Crowd(1, effort.of(10**6, 1000))) as one:
        yield Row(MILLION, [_used(ask, one) for _ in range(effort.of(5, 1))], "ms")
    with _served() as (ask, path), _crowd(_BUSY, path, Crowd(effort.of(64, 2), 0)):
        shares = []
        for _ in range(effort.of(5, 1)):
            before, began = ask("cpu")[0], time.monotonic()
            time.sleep(effort.of(4.0, 0.2))
            shares.append((ask("cpu")[0] - before) / (time.monotonic() - began))
        yield Row(BUSY, shares, "%")
        stuck = effort.of(40, 2)
        with _crowd(_OPEN, path, Crowd(stuck, 0), stuck) as workers:
            yield Row(LATE, _lateness(ask, workers, stuck), "ms")
    few, many = crowds(effort)
    for crowd in (few, many):
        yield from _open(crowd, effort, base=None if crowd is few else few)


def _used(ask: Callable[[str], list[float]], worker: subprocess.Popen[bytes]) -> float:
    assert worker.stdin
    assert worker.stdout
    before = ask("cpu")[0]
    worker.stdin.write(b".")
    worker.stdout.read(1)
    return max(0.0, ask("cpu")[0] - before)  # of two clocks, which may differ by their own cost


def _lateness(
    ask: Callable[[str], list[float]], workers: subprocess.Popen[bytes], stuck: int
) -> list[float]:
    """Let so many get stuck, and say how late each was noticed."""
    assert workers.stdin
    workers.stdin.write(b"." * stuck)
    # The thread that answers is no concern of the scheduler's, and must not be in the other's way.
    until(lambda: len(ask("late")) == stuck, "all of them expire", every=2.0)
    return ask("late")


def _open(crowd: Crowd, effort: Effort, base: Crowd | None) -> Iterator[Row]:
    stuck = effort.of(20, 2)
    with _served() as (ask, path):
        before = _anonymous(int(ask("pid")[0]))
        with _crowd(_OPEN, path, crowd, stuck) as workers:
            after = _anonymous(int(ask("pid")[0]))
            passes = [ask("pass")[0] for _ in range(effort.of(20, 2))]
            boards = sum(map(_of_boards, procfs.children(workers.pid)))
            late = _lateness(ask, workers, stuck)
    blocks = crowd.workers * crowd.blocks
    yield Row(title(PASS, crowd), passes, "ms", base and title(PASS, base))
    yield Row(title(NOTICED, crowd), late, "ms", base and title(NOTICED, base))
    yield Row(title(BOARD, crowd), [boards / blocks], "B")
    yield Row(title(SERVER, crowd), [(after - before) / blocks], "B")


@contextlib.contextmanager
def _crowd(work: str, path: str, crowd: Crowd, stuck: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """Have forked workers do that work, once all of them are ready."""
    arguments = [path, *map(str, (*crowd, stuck))]
    with subprocess.Popen(
        [sys.executable, "-c", work + _FORKED, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        process_group=0,  # to be killed; in our session, so that they compete with the server
    ) as process:
        assert process.stdout
        try:
            for _ in range(crowd.workers):
                if not process.stdout.read(1):
                    raise RuntimeError("the workers could not enter their blocks")
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _served() -> Iterator[tuple[Callable[[str], list[float]], str]]:
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/socket"
        with running(_serve, path) as server:
            server.recv()

            def ask(question: str) -> list[float]:
                server.send(question)
                answer: list[float] = server.recv()
                return answer

            yield ask, path


def _serve(connection: Connection, path: str) -> None:
    noticed = Noticed()
    server = timers.SocketTimerServer(
        path, observer=noticed, before_kill=lambda _run_id, _timers: None
    )
    server.start()
    answers: dict[str, Callable[[], list[float]]] = {
        # This thread does nothing but wait.
        "cpu": lambda: [time.process_time() - time.thread_time()],
        "pid": lambda: [os.getpid()],
        "late": lambda: noticed.seconds,
        "pass": lambda: [_pass(server)],
    }
    connection.send("ready")
    while True:
        connection.send(answers[connection.recv()]())


def _pass(server: timers.SocketTimerServer) -> float:
    """Look at every board once, as if each had something due."""
    with server._watchdog.lock:
        boards = server._watchdog.state.boards
        for watched in boards._watched:
            watched.look_ns = 0
        began = time.perf_counter()
        boards.expired(time.monotonic_ns())
        return time.perf_counter() - began


def _anonymous(pid: int) -> float:
    """Bytes of its own, without what it shares with workers."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return float(line.split()[1]) * 1024
    raise RuntimeError(f"no RssAnon in /proc/{pid}/status")


def _of_boards(pid: int) -> int:
    """Bytes that its boards take: pages that nobody has written take none."""
    files = Path(f"/proc/{pid}/fd").iterdir()
    return sum(file.stat().st_blocks * 512 for file in files if "timers-board" in os.readlink(file))
