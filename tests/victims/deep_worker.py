"""``worker.py`` with a stack that is too deep for a line of the log."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timers
from support.remote import serve
from victims.worker import Worker, stuck_here

DEPTH = 500


def descend(depth: int, scope: str, after: float) -> None:
    if depth:
        descend(depth - 1, scope, after)
    else:
        stuck_here(scope, after)


class DeepWorker(Worker):
    def stuck(self, scope: str, after: float) -> None:
        descend(DEPTH, scope, after)


def main() -> None:
    port, path, number = sys.argv[1:]
    kind, _, socket_path = path.partition(":")
    client = (
        timers.SocketTimerClient(socket_path, signal=int(number))
        if kind == "socket"
        else timers.FileTimerClient(path, signal=int(number))
    )
    hello = {"stuck_line": stuck_here.__code__.co_firstlineno + 2}
    serve(int(port), DeepWorker(int(port), client), hello)


if __name__ == "__main__":
    main()
