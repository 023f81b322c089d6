"""Workers that enter and leave blocks without a pause: bursting.py CLIENT PATH BUSY STUCK BURST.

BUSY of them for ever; STUCK others get stuck in a block of half a second right after BURST blocks.
Says "ready" and the pids of the latter, as JSON, and waits until it is killed; the others end then.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timers

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def busy() -> None:
    while True:
        with timers.expires(600, "busy"):
            pass


def stuck(number: int, burst: int) -> None:
    for _ in range(burst):
        with timers.expires(600, f"burst {number}"):
            pass
    with timers.expires(0.5, "stuck"):
        time.sleep(600)


def fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        timers.configure(getattr(timers, sys.argv[1])(sys.argv[2]))
        try:
            work()
        finally:
            os._exit(0)
    return pid


def main() -> None:
    for _ in range(int(sys.argv[3])):
        fork(busy)
    burst = int(sys.argv[5])
    pids = [fork(lambda n=number: stuck(n, burst)) for number in range(int(sys.argv[4]))]  # type: ignore[misc]  # a default of a lambda has no type
    print("ready")
    print(json.dumps(pids), flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
