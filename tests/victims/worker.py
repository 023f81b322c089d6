"""A worker under remote control; see ``support.remote``.

Arguments: the port of the test, the path of the timer server's pipe (or ``socket:`` and the path
of its socket), the client's signal.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timers
from support.remote import EndThread, serve
from timers.file_based_local_timer import FileTimerRequest

if TYPE_CHECKING:
    from timers.api import TimerClient

__all__ = ["FILE", "Worker", "run", "run_local", "run_socket"]

FILE = __file__
_forever = threading.Event()
_kept: list[Worker] = []


def stuck_here(scope: str, after: float) -> None:
    with timers.expires(after, scope):
        _forever.wait()


class Worker:
    """What a test can have done."""

    def __init__(self, port: int, client: TimerClient) -> None:
        self._port = port
        self._client = client
        self._blocks: dict[str, list[timers.expires]] = {}
        self._churn_ends = threading.Event()
        self._churn_ended = threading.Event()
        self._stuck_after: float | None = None
        self._blocks_left = 0
        self._longest = 0.0
        self._started: list[subprocess.Popen[bytes]] = []
        timers.configure(client)

    def enter(self, scope: str, after: float) -> None:
        block = timers.expires(after, scope)
        block.__enter__()
        self._blocks.setdefault(f"{threading.get_ident()} {scope}", []).append(block)

    def leave(self, scope: str) -> None:
        block = self._blocks[f"{threading.get_ident()} {scope}"].pop()
        block.__exit__(None, None, None)

    def acquire(self, scope: str, after: float) -> None:
        self._client.acquire(scope, time.time() + after)

    def release(self, scope: str) -> None:
        self._client.release(scope)

    def beat(self, scope: str, first: float, then: float) -> None:
        """Acquire and, before anybody can say anything, acquire again."""
        self.acquire(scope, first)
        self.acquire(scope, then)

    def enter_all(self, scopes: list[str], after: float) -> None:
        for scope in scopes:
            self.enter(scope, after)

    def nest(self, scope: str, depth: int) -> None:
        """Enter blocks of one scope, each inside the one before."""
        for _ in range(depth):
            self.enter(scope, 600)

    def pairs(self, scope: str, count: int, after: float = 3600) -> int:
        """So many times into a block and out of it, as fast as it goes."""
        for _ in range(count):
            with timers.expires(after, scope):
                pass
        return count

    def churn(self, scope: str, after: float) -> None:
        """Into a block and out of it until :meth:`end_churn`, or get stuck in one for good."""
        while not self._churn_ends.is_set():
            if self._stuck_after is not None:
                stuck_here("hang", self._stuck_after)
            started = time.monotonic()
            with timers.expires(after, scope):
                time.sleep(0.0005)
            self._longest = max(self._longest, time.monotonic() - started)
            self._blocks_left += 1
        self._churn_ended.set()

    def get_stuck(self, after: float) -> None:
        """The thread that churns gets stuck at its next block."""
        self._stuck_after = after

    def churned(self) -> int:
        """How many blocks :meth:`churn` has left."""
        return self._blocks_left

    def longest(self) -> float:
        """The longest block of :meth:`churn`, in seconds."""
        return self._longest

    def end_churn(self) -> int:
        """End :meth:`churn`; return how many blocks it left."""
        self._churn_ends.set()
        assert self._churn_ended.wait(60)
        return self._blocks_left

    def send(self, pid: int, scope: str, expiration_time: float, number: int) -> None:
        """A request of torch's kind: its five keys and nothing else."""
        assert isinstance(self._client, timers.FileTimerClient)
        self._client._send_request(FileTimerRequest(pid, scope, expiration_time, number))

    def stuck(self, scope: str, after: float) -> None:
        stuck_here(scope, after)

    def thread_id(self) -> int:
        return threading.get_native_id()

    def failures(self) -> int:
        return int(getattr(self._client, "failures", 0))

    def ignore(self, number: int) -> None:
        signal.signal(number, signal.SIG_IGN)

    def end_thread(self) -> None:
        """End the calling thread, after its answer."""
        raise EndThread

    def exit(self) -> None:
        """End inside whatever was entered: its blocks are there until the interpreter ends."""
        _kept.append(self)
        sys.exit(0)

    def descriptors(self) -> list[str]:
        """What its open descriptors are."""
        found = []
        for entry in Path("/proc/self/fd").iterdir():
            try:
                found.append(str(entry.readlink()))
            except FileNotFoundError:  # the one that lists them
                continue
        return found

    def fork(self) -> int:
        """Fork a worker, which connects to the test like this one."""
        pid = os.fork()
        if pid == 0:
            try:
                serve(self._port, self)
            finally:
                os._exit(0)
        return pid

    def short_lives(self, scope: str, count: int) -> list[int]:
        """Start so many processes that each go into a block, out of it and end."""
        pids = []
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                self.pairs(scope, 1)
                os._exit(0)
            pids.append(pid)
        for pid in pids:
            os.waitpid(pid, 0)
        return pids

    def fork_on(self, number: int, path: str) -> None:
        """On this signal start a child, write its pid to ``path`` and go on."""

        def handler(signum: int, frame: object) -> None:
            del signum, frame
            pid = os.fork()
            if pid == 0:
                while True:
                    signal.pause()
            Path(path).write_text(str(pid))

        signal.signal(number, handler)

    def family(self, depth: int) -> list[int]:
        """Start a child, which starts a child, and so on: so many pids. They ignore SIGTERM."""
        reader, writer = os.pipe()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            below = self.family(depth - 1) if depth > 1 else []
            os.write(writer, " ".join(map(str, [os.getpid(), *below])).encode() + b"\n")
            while True:
                signal.pause()
        os.close(writer)
        with os.fdopen(reader) as file:
            return [int(word) for word in file.readline().split()]

    def listening_family(self) -> int:
        """Listen at a port, and start a child that has it, too; return the port."""
        listener = socket.create_server(("127.0.0.1", 0))
        if os.fork() == 0:
            while True:
                signal.pause()
        port: int = listener.getsockname()[1]
        return port

    def start(self, environment: dict[str, str], session: bool = False) -> int:
        """Start a program that waits, with this besides its own environment."""
        process = subprocess.Popen(
            ["sleep", "1000"], env={**os.environ, **environment}, start_new_session=session
        )
        self._started.append(process)
        return process.pid

    def stuck_without_descriptors(self, scope: str, after: float) -> None:
        """Close all that is open, as daemons do, the connection to the test included."""
        os.closerange(0, 4096)
        stuck_here(scope, after)

    def become(self, *command: str) -> None:
        """Be another program from now on."""
        os.execvp(command[0], command)

    def bomb(self, depth: int) -> None:
        """Two children, each of which has two more, so many times. They stay."""
        while depth and not (os.fork() and os.fork()):
            depth -= 1
        while True:
            signal.pause()

    def allow_tracing(self) -> None:
        """Let any process of this user trace this one, whatever Yama says."""
        ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1))  # PR_SET_PTRACER, ANY

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no such command: {name}")


def run(port: int, client: TimerClient) -> None:
    hello = {"stuck_line": stuck_here.__code__.co_firstlineno + 2}
    serve(port, Worker(port, client), hello)


def run_local(port: int, mp_queue: Any) -> None:
    """The same as a process of :mod:`multiprocessing`."""
    run(port, timers.LocalTimerClient(mp_queue))


def run_socket(port: int, path: str, number: int) -> None:
    """The same at a socket."""
    run(port, timers.SocketTimerClient(path, signal=number))


def main() -> None:
    port, path, number = sys.argv[1:]
    kind, _, socket_path = path.partition(":")
    client: TimerClient
    if kind == "socket":
        client = timers.SocketTimerClient(socket_path, signal=int(number))
    else:
        client = timers.FileTimerClient(path, signal=int(number))
    run(int(port), client)


if __name__ == "__main__":
    main()
