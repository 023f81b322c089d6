"""Imports PyTorch once and forks workers and servers of either library; see ``support.remote``.

Argument: the port of the test.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.remote import serve

LIBRARIES = {"ours": "timers", "torch": "torch.distributed.elastic.timer"}


class Worker:
    """A process with a client of one of the libraries."""

    def __init__(self, library: Any, client: Any) -> None:
        self._library = library
        self._client = client
        self._blocks: list[contextlib.AbstractContextManager[None]] = []
        self._sent = 0
        library.configure(client)

    def enter(self, after: float, scope: str | None) -> None:
        if scope is None:
            block = self._library.expires(after)  # the default scope is this line
        else:
            block = self._library.expires(after, scope)
        block.__enter__()
        self._blocks.append(block)

    def leave(self) -> None:
        self._blocks.pop().__exit__(None, None, None)

    def pairs(self, scope: str, count: int) -> None:
        """So many times into a block and out of it, as fast as it goes."""
        for _ in range(count):
            with self._library.expires(3600, scope):
                self._sent += 1
            self._sent += 1

    def sent(self) -> int:
        """How many requests left :meth:`pairs` without an exception."""
        return self._sent

    def stuck(self, after: float, scope: str) -> None:
        with self._library.expires(after, scope):
            threading.Event().wait()

    def pipes(self, path: str) -> int:
        """How many open descriptors of this process are the named pipe at ``path``."""
        found = os.stat(path)
        count = 0
        for entry in os.scandir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the one that lists them
                count += os.path.samestat(os.stat(entry.path), found)
        return count

    def exit(self) -> None:
        sys.exit(0)


class Server:
    """A process with a server of one of the libraries."""

    def __init__(self, server: Any) -> None:
        self._server = server
        server.start()

    def requests(self) -> int:
        return int(self._server._request_count)

    def timers(self) -> list[tuple[int, str]]:
        return list(self._server._timers)

    def progress(self) -> int:
        return int(self._server.get_last_progress_time())

    def reaps(self) -> dict[str, int]:
        """Of a server of ours: how many reaps came to which outcome."""
        totals: dict[str, int] = {}
        for scope in self._server.statistics.scopes.values():
            for outcome, count in scope.reaps.items():
                totals[outcome] = totals.get(outcome, 0) + count
        return {outcome: count for outcome, count in totals.items() if count}


class Host:
    """What a test can have forked."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._libraries = {name: importlib.import_module(LIBRARIES[name]) for name in LIBRARIES}
        self._queue: Any = None

    def new_queue(self, kind: str) -> None:
        """Make the queue that the ``local_`` roles forked from now on share."""
        self._queue = getattr(multiprocessing.get_context("fork"), kind)()

    def fork(self, role: str, library: str, *args: Any) -> int:
        """Fork a process in ``role``, which connects to the test; return its pid."""
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                serve(self._port, getattr(self, f"_{role}")(self._libraries[library], *args))
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
            finally:
                os._exit(status)
        return pid

    def status(self, pid: int) -> int:
        """Wait for a forked process; its exit status, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def default_scope(self, library: str) -> str:
        """What a block without a scope is called by ``library``: a regular expression."""
        if library == "torch":
            return r".*contextlib\.py#\d+"
        code = Worker.enter.__code__
        lines = range(code.co_firstlineno, code.co_firstlineno + 8)
        return re.escape(code.co_filename) + f"#({'|'.join(map(str, lines))})"

    def _file_worker(self, library: Any, path: str) -> Worker:
        return Worker(library, library.FileTimerClient(path))

    def _file_server(self, library: Any, path: str, max_interval: float) -> Server:
        return Server(library.FileTimerServer(path, "run", max_interval))

    def _local_worker(self, library: Any) -> Worker:
        return Worker(library, library.LocalTimerClient(self._queue))

    def _local_server(self, library: Any, max_interval: float) -> Server:
        return Server(library.LocalTimerServer(self._queue, max_interval))


def main() -> None:
    serve(int(sys.argv[1]), Host(int(sys.argv[1])))


if __name__ == "__main__":
    main()
