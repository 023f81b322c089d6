"""Starts one server of the socket pair after the other, quickly; see ``support.remote``.

Arguments: the port of the test, ``socket:`` and the path of the socket.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.remote import serve
from victims.server import Server


class Host:
    """What a test can ask of it."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._path = path
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the servers
        importlib.import_module("timers.socket_timer")
        importlib.import_module("timers.stacks._ladder")

    def start(self) -> int:
        """Start a server, which connects to the test."""
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                serve(self._port, Server(self._path, 10))
            except BaseException:  # noqa: BLE001  # or nobody would learn why there is no server
                traceback.print_exc()
            finally:
                os._exit(0)
        return pid


def main() -> None:
    port, path = sys.argv[1:]
    serve(int(port), Host(int(port), path))


if __name__ == "__main__":
    main()
