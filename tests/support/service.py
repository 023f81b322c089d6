"""A service in this process, and raw connections to it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from typing import TYPE_CHECKING, Any

from observability.http.address import Address
from observability.service import Service
from observability.settings import Settings
from timers.server.reaper import ReapPolicy

from .command import SUPERVISED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["connect", "exchange", "is_closed", "running", "worker"]


@contextlib.contextmanager
def running(
    directory: Path,
    policy: ReapPolicy | None = None,
    timer_socket: str | None = None,
    **settings: Any,
) -> Iterator[Service]:
    """A started service with its pipe in ``directory`` and a port of its own."""
    settings = {"http": Address("127.0.0.1", 0), "events": str(directory / "events"), **settings}
    service = Service(
        str(directory / "pipe"),
        Settings(**{"run_id": "run-1", **settings}),
        policy or ReapPolicy(),
        timer_socket,
    )
    service.start()
    try:
        yield service
    finally:
        service.stop()


@contextlib.contextmanager
def worker(service: Service, *mode: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A worker of ``service``: ``tests/victims/supervised.py MODE``. Killed at the end."""
    with subprocess.Popen(
        [*SUPERVISED, *map(str, mode)],
        env={**os.environ, "TIMERS_FILE": service.server._file_path, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def connect(service: Service) -> socket.socket:
    """A connection to its HTTP side."""
    assert service.address is not None
    return socket.create_connection(service.address, timeout=30)


def exchange(client: socket.socket, request: str) -> str:
    """Send a whole request that ends the connection; return the whole answer."""
    client.sendall(request.replace("\n", "\r\n").encode())
    answer = b""
    while data := client.recv(65536):
        answer += data
    return answer.decode()


def is_closed(client: socket.socket) -> bool:
    """Whether the other side has given the connection up; waits up to the socket's timeout."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True
