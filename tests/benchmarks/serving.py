"""A timer server in a process of its own, for as long as something is measured."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import subprocess
import sys
import tempfile
import termios
from typing import TYPE_CHECKING, Any

from .apart import CONTEXT, running
from .waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

__all__ = ["TORCH", "drained", "queue_serving", "serving"]

TORCH = "torch.distributed.elastic.timer"
_SERVE = """
import sys, {module} as m
server = m.{server}(sys.argv[1], "benchmark"{options})
server.start()
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def serving(module: str, options: str = "", server: str = "FileTimerServer") -> Iterator[str]:
    """Run ``module.server(path, "benchmark" options)``; its path."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/address"
        script = _SERVE.format(module=module, options=options, server=server)
        process = subprocess.Popen(
            [sys.executable, "-c", script, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        try:
            yield path
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


@contextlib.contextmanager
def queue_serving(module: str, kind: str = "Queue") -> Iterator[Any]:
    """Run ``module.LocalTimerServer`` for a multiprocessing queue of that kind; the queue."""
    queue = getattr(CONTEXT, kind)()
    with running(_serve_queue, module, queue) as connection:
        connection.recv()
        try:
            yield queue
        finally:
            queue.close()


def _serve_queue(connection: Connection, module: str, queue: Any) -> None:
    importlib.import_module(module).LocalTimerServer(queue).start()
    connection.send("ready")
    connection.recv()


def drained(path: str) -> None:
    """Wait until nothing lies in the named pipe at ``path``."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        until(lambda: _waiting_bytes(fd) == 0, f"the server at {path} reads")
    finally:
        os.close(fd)


def _waiting_bytes(fd: int) -> int:
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
