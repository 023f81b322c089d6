"""Workers that hang, one after the other, and when the signal came and they were gone.

A program of its own, of the standard library alone, so that it is small and forks quickly::

    python -I -S hanging.py PATH COUNT AFTER SPACING

forks COUNT workers, SPACING seconds apart, each of which writes one request for AFTER seconds into
the named pipe and hangs. They ask for SIGKILL and for SIGTERM by turns; SIGTERM is waited for, its
time noted, and the worker leaves. Prints one JSON object: seconds from the deadline to the
``signal`` (as the worker saw it) and to the ``death`` (by SIGKILL, as its parent saw it).

With several paths (``PATH:PATH:...``) each worker has a server of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import struct
import sys
import time

_PATIENCE_SECONDS = 60.0
_NS = 1_000_000_000
_NOTE = struct.Struct("iq")


def _request(path: str, deadline_ns: int, after: float, number: int) -> None:
    now = time.monotonic_ns()
    line = json.dumps(
        {
            "version": 1,
            "pid": os.getpid(),
            "scope_id": "hanging",
            "expiration_time": time.time() + (deadline_ns - now) / _NS,
            "signal": number,
            "deadline_ns": deadline_ns,
            "after": after,
        }
    )
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, line.encode() + b"\n")
    os.close(fd)


def _hang(path: str, deadline_ns: int, after: float, number: int, notes: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    _request(path, deadline_ns, after, number)
    signal.sigwait({signal.SIGTERM})
    os.write(notes, _NOTE.pack(os.getpid(), time.monotonic_ns()))


class _Workers:
    def __init__(self) -> None:
        self.deadlines: dict[int, int] = {}
        self.deaths: dict[int, int] = {}
        self.pids: dict[int, int] = {}
        self._poll = select.poll()
        self._notes, self._note = os.pipe()

    def fork(self, path: str, after: float, number: int) -> None:
        deadline_ns = time.monotonic_ns() + int(after * _NS)
        pid = os.fork()
        if pid == 0:
            try:
                _hang(path, deadline_ns, after, number, self._note)
            finally:
                os._exit(0)
        self.deadlines[pid] = deadline_ns
        fd = os.pidfd_open(pid)
        self.pids[fd] = pid
        self._poll.register(fd, select.POLLIN)

    def wait(self, seconds: float) -> None:
        """Note the deaths until so many seconds are over, or nobody is left."""
        end = time.monotonic() + seconds
        while self.pids and (left := end - time.monotonic()) > 0:
            for fd, _ in self._poll.poll(left * 1000):
                now_ns = time.monotonic_ns()
                pid = self.pids.pop(fd)
                self._poll.unregister(fd)
                os.close(fd)
                _, status = os.waitpid(pid, 0)
                if os.WIFSIGNALED(status):
                    self.deaths[pid] = now_ns
        time.sleep(max(0.0, end - time.monotonic()) if seconds < _PATIENCE_SECONDS else 0.0)

    def found(self) -> dict[str, list[float]]:
        os.close(self._note)
        signals = []
        while note := os.read(self._notes, _NOTE.size):
            pid, now_ns = _NOTE.unpack(note)
            signals.append((now_ns - self.deadlines[pid]) / _NS)
        deaths = [(now_ns - self.deadlines[pid]) / _NS for pid, now_ns in self.deaths.items()]
        return {"signal": signals, "death": deaths}

    def kill(self) -> None:
        for pid in self.pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def main() -> None:
    """See the module."""
    paths, count = sys.argv[1].split(":"), int(sys.argv[2])
    after, spacing = float(sys.argv[3]), float(sys.argv[4])
    workers = _Workers()
    try:
        for number in range(count):
            # Not in step with anybody's interval.
            workers.fork(
                paths[number % len(paths)],
                after * random.uniform(0.8, 1.2),
                (signal.SIGKILL, signal.SIGTERM)[number % 2],
            )
            workers.wait(spacing * random.uniform(0.8, 1.2))
        workers.wait(_PATIENCE_SECONDS)
        if workers.pids:
            sys.exit(f"{len(workers.pids)} of {count} workers were never reaped")
        print(json.dumps(workers.found()))
    finally:
        workers.kill()


if __name__ == "__main__":
    main()
