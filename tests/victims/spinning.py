"""Keeps a CPU busy for ever with the instructions of a file, without the interpreter's lock.

``spinning.py FILE`` makes FILE, which a debugger takes for a library of that name, and stays in it;
with "alarm", a second thread counts signals, and says how many came when a line is read.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
import sys
import threading

BRANCH_TO_ITSELF = {"x86_64": b"\xeb\xfe", "aarch64": b"\x00\x00\x00\x14"}


def main(path: str) -> None:
    with open(path, "w+b") as file:
        file.write(BRANCH_TO_ITSELF[platform.machine()])
        file.flush()
        code = mmap.mmap(
            file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE | 4
        )
        address = ctypes.addressof(ctypes.c_char.from_buffer(code))
        spin = ctypes.CFUNCTYPE(None)(address)
        print("ready", flush=True)
        spin()


def count_signals() -> None:
    """Have each signal of a timer that goes off time and again noted in a pipe."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)

    def report() -> None:
        for _ in sys.stdin:
            print(len(os.read(reader, 1 << 20)), flush=True)

    threading.Thread(target=report, daemon=True).start()


if __name__ == "__main__":
    if "alarm" in sys.argv:
        count_signals()
    main(sys.argv[1])
