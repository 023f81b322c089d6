"""What somebody hostile does to a server, as another user or as one of its workers.

Run as a program, the first argument says what it does; it says "ready" and blocks. The functions
are also for forked children of a test.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from timers.transport.socket_path import connect

__all__ = ["become", "endless_environment", "request"]

_PR_SET_MM = 35
_PR_SET_MM_MAP = 14
_NORESERVE = 0x4000
_PRCTL_MM_MAP = struct.Struct("=11QQII")  # linux/prctl.h, struct prctl_mm_map
_FIELDS = slice(42, 49)
"""Of /proc/PID/stat after the command: where data, heap, arguments and environment are."""


def become(uid: int) -> None:
    """Become this user for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def request(
    pid: int, scope: str, *, seconds: float = 0.0, number: int = 9, **more: object
) -> bytes:
    """An acquire that says it comes from ``pid``, as one line.

    :param seconds: until its deadline.
    :param more: further fields, or others in place of these.
    """
    fields = {
        "version": 1,
        "pid": pid,
        "scope_id": scope,
        "expiration_time": time.time() + seconds,
        "signal": number,
    }
    return json.dumps({**fields, **more}).encode() + b"\n"


def endless_environment(size: int) -> None:
    """Have the kernel show ``size`` bytes of nothing as this process's environment."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = libc.sbrk.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        *[ctypes.c_int] * 3,
        ctypes.c_long,
    ]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
    start = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    fields = [int(word) for word in _stat()]
    start_data, end_data, start_heap, start_arguments, end_arguments, *_ = fields[_FIELDS]
    described = _PRCTL_MM_MAP.pack(
        *(fields[23], fields[24], start_data, end_data, start_heap, libc.sbrk(0), fields[25]),
        *(start_arguments, end_arguments, start, start + size),
        *(0, 0, 2**32 - 1),
    )
    buffer = ctypes.create_string_buffer(described, len(described))
    where = ctypes.c_ulong(ctypes.addressof(buffer))
    if libc.prctl(_PR_SET_MM, _PR_SET_MM_MAP, where, ctypes.c_ulong(len(described)), 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_MM_MAP)")


def _stat() -> list[str]:
    text = Path("/proc/self/stat").read_text()
    return ["0", *text[text.rindex(")") + 4 :].split()]


def ready() -> None:
    print("ready", flush=True)


def block() -> None:
    while True:
        signal.pause()


def endless(path: str, size: str) -> None:
    """A worker whose environment has no end."""
    endless_environment(int(size))
    with connect(path) as connection:
        connection.send(request(os.getpid(), "endless", seconds=3600))
        ready()
        block()


def connections(path: str, number: str) -> None:
    """A worker that connects so often, or as often as it can."""
    kept = [connect(path) for _ in range(int(number))]
    ready()
    block()
    del kept


def flood(path: str, kind: str) -> None:
    """A worker that sends requests as fast as it can, for ever."""
    lines = [request(os.getpid(), f"flood {n % 50}", seconds=3600, thread=n) for n in range(1000)]
    if kind == "socket":
        connection = connect(path)
        connection.setblocking(True)
        connection.send(lines[0])
        ready()
        while True:
            for line in lines:
                connection.send(line)
    pipe = os.open(path, os.O_WRONLY)
    os.write(pipe, lines[0])
    ready()
    while True:
        for line in lines:
            os.write(pipe, line)


def name_another(path: str, kind: str, victim: str) -> None:
    """Have another process killed, by its pid as the server's namespace numbers it."""
    line = request(int(victim), "forged", number=signal.SIGTERM)
    if kind == "socket":
        with connect(path) as connection:
            connection.send(line)
            ready()
            block()
    else:
        pipe = os.open(path, os.O_WRONLY)
        os.write(pipe, line)
        ready()
        block()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
