"""Starts processes that have the pids of others, which have ended; see ``support.remote``.

Arguments: the port of the test, the path of the timer server's pipe. The processes do nothing. As
for timers, this one speaks for them, which over the pipe it may.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.remote import serve

# And not one import more: what this process is, is copied for each that it starts.

_CLONE3 = 435  # on every architecture but alpha
_PR_SET_PDEATHSIG = 1
_SIGCHLD = int(signal.SIGCHLD)
_LIBC = ctypes.PyDLL(None, use_errno=True)  # without letting go of the interpreter's lock


class _CloneArguments(ctypes.Structure):
    """struct clone_args (clone3(2), Linux 5.5)."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size"),
            *("tls", "set_tid", "set_tid_size"),
        )
    )


def start(pid: int | None = None) -> int:
    """Start a process that waits for its end, with this very pid if one is given."""
    wanted = ctypes.c_int32(pid or 0)
    arguments = _CloneArguments(exit_signal=_SIGCHLD)
    if pid is not None:
        arguments.set_tid = ctypes.addressof(wanted)
        arguments.set_tid_size = 1
    got = int(_LIBC.syscall(_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments)))
    if got == 0:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        while True:
            _LIBC.pause()
    if got < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return got


def start_time(pid: int) -> int:
    """In clock ticks since the machine was started (proc(5))."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def is_alive(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def end(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)


class Recycler:
    """What a test can have done."""

    def __init__(self, path: str) -> None:
        self._pipe = os.open(path, os.O_WRONLY)
        self._pids: list[int] = []
        self._started: dict[int, int] = {}
        self._due = 0.0

    def workers(self, count: int) -> None:
        """Start so many workers, each in a block that may take long."""
        self._pids = [start() for _ in range(count)]
        self._started = {pid: start_time(pid) for pid in self._pids}
        self._acquire(3600.0)

    def hurry(self, after: float) -> None:
        """Their blocks have to end within so many seconds."""
        self._due = time.monotonic() + after
        self._acquire(after)

    def _acquire(self, after: float) -> None:
        for pid in self._pids:
            request = {
                "version": 1,
                "pid": pid,
                "scope_id": "recycled",
                "expiration_time": time.time() + after,
                "signal": 9,
                "start_time": self._started[pid],
                "thread": pid,
                "deadline_ns": time.monotonic_ns() + int(after * 1e9),
                "after": after,
            }
            os.write(self._pipe, json.dumps(request).encode() + b"\n")

    def recycle(self) -> int:
        """Every worker ends and another process has its pid: so many; then their time is up."""
        workers = [pid for pid in self._pids if is_alive(pid)]
        end(self._pids)
        self._pids = []
        for pid in workers:
            with contextlib.suppress(FileExistsError):  # somebody else's already
                self._pids.append(start(pid))
        time.sleep(max(0.0, self._due - time.monotonic()))
        return len(self._pids)

    def survivors(self) -> int:
        """How many of these live. They end."""
        pids, self._pids = self._pids, []
        alive = sum(is_alive(pid) for pid in pids)
        end(pids)
        return alive


def main() -> None:
    port, path = sys.argv[1:]
    recycler = Recycler(path)
    try:
        serve(int(port), recycler)
    finally:
        recycler.survivors()


if __name__ == "__main__":
    main()
