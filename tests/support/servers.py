"""Every pair of ours behind one face, so that one suite of tests is for all of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from timers import FileTimerServer, LocalTimerServer, SocketTimerServer
from victims.worker import run_local, run_socket

from .processes import VICTIMS
from .remote import Listener, Remote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from timers.server.server import WatchdogServer

__all__ = ["FilePair", "LocalPair", "Pair", "SocketChildren", "SocketPair"]


class Pair(Protocol):
    """One kind of server with its workers. What it started ends with :meth:`close`."""

    def server(self, **options: Any) -> WatchdogServer:
        """Make and start a server; ``options`` are its keywords."""
        ...

    def worker(self) -> Remote:
        """Start a worker that is connected to the test and knows the server."""
        ...

    def accept(self) -> Remote:
        """A process that a worker forked."""
        ...

    def close(self) -> None:
        """End all of it."""
        ...


class _Base:
    def __init__(self) -> None:
        self._listener = Listener()
        self._ends = contextlib.ExitStack()

    def accept(self) -> Remote:
        remote = self._listener.accept()
        self._ends.callback(remote.close)
        return remote

    def close(self) -> None:
        self._ends.close()
        self._listener.close()


class _PathPair(_Base):
    """What is found by a path; its workers are programs of their own."""

    prefix = ""
    """Of the path, for ``tests/victims/worker.py``."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self._ends.callback(shutil.rmtree, self.directory)
        self.path = self.directory / "pipe"
        self.environment: Mapping[str, str] = {}
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def worker(self, number: int = signal.SIGKILL) -> Remote:
        return self._program("worker", f"{self.prefix}{self.path}", int(number))

    def server_process(self, max_interval: float = 10) -> Remote:
        """A server in a process of its own: ``tests/victims/server.py``."""
        return self._program("server", f"{self.prefix}{self.path}", max_interval)

    def _program(self, name: str, *args: object, wrapper: Sequence[str] = ()) -> Remote:
        process = subprocess.Popen(
            [
                *wrapper,
                sys.executable,
                VICTIMS / f"{name}.py",
                str(self._listener.port),
                *map(str, args),
            ],
            env={**os.environ, **self.environment},
        )
        self._ends.callback(_end, process)
        self.processes[process.pid] = process
        return self.accept()


class FilePair(_PathPair):
    """The named pipe."""

    def __init__(self) -> None:
        super().__init__()
        self.servers: list[FileTimerServer] = []

    def server(self, **options: Any) -> FileTimerServer:
        server = FileTimerServer(self.path, "run", **options)
        self.servers.append(server)
        self._ends.callback(server.stop)
        server.start()
        return server

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The last server takes nothing up meanwhile: no request, no exit, no deadline."""
        with self.servers[-1]._watchdog.lock:
            yield

    @staticmethod
    def tasks(pid: int) -> list[Path]:
        """What /proc has of each thread of a process."""
        return list(Path(f"/proc/{pid}/task").iterdir())


class SocketPair(_PathPair):
    """The Unix socket."""

    prefix = "socket:"

    def server(self, **options: Any) -> SocketTimerServer:
        server = SocketTimerServer(self.path, "run", **options)
        self._ends.callback(server.stop)
        server.start()
        return server

    def namespaced_worker(self, number: int = signal.SIGKILL) -> Remote:
        """A worker in a pid namespace of its own (unshare(1)), where its pid is 1 or so."""
        unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        return self._program("worker", f"{self.prefix}{self.path}", int(number), wrapper=unshare)


class SocketChildren(SocketPair):
    """The Unix socket; its workers are children of this process, by :mod:`multiprocessing`."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self._context: Any = multiprocessing.get_context(method)

    def worker(self, number: int = signal.SIGKILL) -> Remote:
        arguments = (self._listener.port, str(self.path), int(number))
        process = self._context.Process(target=run_socket, args=arguments, daemon=True)
        process.start()
        self._ends.callback(process.join)
        return self.accept()


class LocalPair(_Base):
    """A queue of :mod:`multiprocessing`; its workers are children of this process."""

    def __init__(self, queue: str, method: str) -> None:
        super().__init__()
        self._context: Any = multiprocessing.get_context(method)
        self.queue: Any = getattr(self._context, queue)()
        self._ends.callback(self.queue.close)

    def server(self, **options: Any) -> LocalTimerServer:
        server = LocalTimerServer(self.queue, run_id="run", **options)
        self._ends.callback(server.stop)
        server.start()
        return server

    def worker(self) -> Remote:
        process = self._context.Process(
            target=run_local, args=(self._listener.port, self.queue), daemon=True
        )
        process.start()
        self._ends.callback(process.join)
        return self.accept()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
