"""One process that has imported PyTorch, and what each test has it fork."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support.processes import VICTIMS
from support.remote import Listener, Remote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Forks:
    """Workers and servers of either library, as processes under remote control."""

    def __init__(self, listener: Listener, host: Remote, path: Path) -> None:
        self.path = str(path)
        self._listener = listener
        self._host = host
        self._ends = contextlib.ExitStack()

    def _fork(self, role: str, library: str, *args: Any) -> Remote:
        pid = self._host.do("fork", role, library, *args)
        remote = self._listener.accept()
        assert remote.pid == pid
        self._ends.callback(remote.close)
        return remote

    def file_worker(self, library: str) -> Remote:
        return self._fork("file_worker", library, self.path)

    def file_server(self, library: str, max_interval: float = 0.1) -> Remote:
        return self._fork("file_server", library, self.path, max_interval)

    def local_worker(self, library: str) -> Remote:
        return self._fork("local_worker", library)

    def local_server(self, library: str, queue: str = "Queue") -> Remote:
        """A server and, for it and the workers that come after it, a queue."""
        self._host.do("new_queue", queue)
        return self._fork("local_server", library, 0.1)

    def status(self, remote: Remote) -> int:
        """The exit status of a process that has ended or is about to."""
        assert remote.gone(), f"process {remote.pid} is still there"
        status: int = self._host.do("status", remote.pid)
        return status

    def default_scope(self, library: str) -> str:
        pattern: str = self._host.do("default_scope", library)
        return pattern

    def close(self) -> None:
        self._ends.close()


@pytest.fixture(scope="session")
def torch_host() -> Iterator[tuple[Listener, Remote]]:
    """Importing PyTorch takes seconds, forking a process that has done so takes none."""
    listener = Listener()
    process = subprocess.Popen([sys.executable, VICTIMS / "torch_host.py", str(listener.port)])
    try:
        host = listener.accept()
        yield listener, host
        host.close()
    finally:
        process.kill()
        process.wait()
        listener.close()


@pytest.fixture
def forks(torch_host: tuple[Listener, Remote], tmp_path: Path) -> Iterator[Forks]:
    found = Forks(*torch_host, tmp_path / "pipe")
    yield found
    found.close()
