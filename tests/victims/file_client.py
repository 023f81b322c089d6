"""Enter a scope and be stuck in it. Arguments: the server's pipe, the seconds allowed."""

from __future__ import annotations

import sys
import threading

import timers


def stuck_here() -> None:
    threading.Event().wait()  # stuck at this line


if __name__ == "__main__":
    timers.configure(timers.FileTimerClient(sys.argv[1]))
    with timers.expires(after=float(sys.argv[2]), scope="stuck_scope"):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        stuck_here()
