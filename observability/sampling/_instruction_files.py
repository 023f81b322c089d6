"""Print which files hold the instructions that a thread is met at. A program.

``python -I -S _instruction_files.py PID THREAD TIMES``: a line a sample. The thread stops for some
microseconds each time.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

# linux/ptrace.h, linux/wait.h
_SEIZE, _INTERRUPT, _CONT, _DETACH = 0x4206, 0x4207, 7, 17
_EVENT_STOP = 128
_ANY_THREAD = 0x40000000
_PAUSE_SECONDS = 0.002


class _CannotTraceError(Exception):
    """It has ended, is stopped by somebody, or may not be traced."""


class _Traced:
    """A thread that can be stopped. The kernel lets go of it when this process ends."""

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self._ptrace = ctypes.CDLL(None).ptrace
        self._ptrace.restype = ctypes.c_long
        self._ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        self._call(_SEIZE)

    def _call(self, request: int, data: int = 0) -> None:
        if self._ptrace(request, self.thread, None, data) != 0:
            raise _CannotTraceError

    def stop(self) -> None:
        """Stop it; signals that come meanwhile reach it."""
        self._call(_INTERRUPT)
        while True:
            _, status = os.waitpid(self.thread, _ANY_THREAD)
            if not os.WIFSTOPPED(status):
                raise _CannotTraceError
            if status >> 16 == _EVENT_STOP:
                if os.WSTOPSIG(status) != signal.SIGTRAP:
                    self.let_go()  # as the one who stopped the process left it
                    raise _CannotTraceError
                return
            self._call(_CONT, os.WSTOPSIG(status))

    def go_on(self) -> None:
        self._call(_CONT)

    def let_go(self) -> None:
        self._call(_DETACH)


def _instruction(pid: int, thread: int) -> int:
    """Address of what a stopped thread runs next: the last word of proc_pid_syscall(5)."""
    with open(f"/proc/{pid}/task/{thread}/syscall", encoding="ascii") as file:
        return int(file.read().split()[-1], 16)


def _file_at(pid: int, address: int) -> str:
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
        for line in file:
            span, *fields = line.split(None, 5)
            start, _, end = span.partition("-")
            if int(start, 16) <= address < int(end, 16):
                return fields[4].rstrip("\n") if len(fields) > 4 else ""  # noqa: PLR2004  # proc_pid_maps(5)
    return ""


def main(pid: int, thread: int, times: int) -> None:
    """Write one line for each sample, as far as it gets."""
    traced = _Traced(thread)
    for number in range(times):
        if number:
            traced.go_on()
            time.sleep(_PAUSE_SECONDS)
        traced.stop()
        sys.stdout.write(_file_at(pid, _instruction(pid, thread)) + "\n")
    traced.let_go()


if __name__ == "__main__":
    try:
        main(*map(int, sys.argv[1:]))
    except (_CannotTraceError, OSError, ValueError):
        sys.exit(1)
