"""Make a process survive SIGKILL for as long as this one lives.

Its argument is the pid. A traced process stops once more on its way out (PTRACE_O_TRACEEXIT, see
ptrace(2)), SIGKILL or not, and ends when its tracer lets go of it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PTRACE_SEIZE = 0x4206
_PTRACE_O_TRACEEXIT = 0x40


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(_PTRACE_SEIZE, int(sys.argv[1]), None, _PTRACE_O_TRACEEXIT) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
