"""Be stuck in one of several ways, inside a function named ``stuck_here_MODE``.

Says "ready" and then is, or within a moment will be, where it is stuck.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

WAITING_THREADS = 20


def stuck_here_sleep() -> None:
    time.sleep(1000)


def stuck_here_spin() -> None:
    turns = 0
    while True:
        turns += 1


def stuck_here_churn() -> None:
    # Its frames come and go as fast as it can: the hardest to read while it runs.
    while True:
        sorted(range(3), key=lambda number: -number)


def stuck_here_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def stuck_here_read() -> None:
    reader, _writer = os.pipe()
    os.read(reader, 1)


def stuck_here_gil() -> None:
    # Functions of a PyDLL are called without releasing the GIL.
    ctypes.PyDLL(None).sleep(1000)


def stuck_here_threads() -> None:
    threading.Event().wait()


def stuck_here_stopped() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def stuck_here_uninterruptible() -> None:
    # vfork(2): the parent stays in state D until its child, which shares its memory, is gone.
    libc = ctypes.PyDLL(None)
    if libc.vfork() == 0:
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: the child does not outlive the victim
        while True:
            libc.pause()


def main() -> None:
    mode = sys.argv[1]
    stuck_here = globals()[f"stuck_here_{mode}"]
    if mode == "threads":
        for number in range(WAITING_THREADS):
            threading.Thread(target=stuck_here, name=f"waiter-{number}", daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    stuck_here()


if __name__ == "__main__":
    main()
