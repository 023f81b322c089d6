"""Have pids recycled under a timer server, as the first process of a namespace of pids.

Prints one JSON object with what happened. To be started by
``unshare --pid --fork --mount-proc python recycling.py SCENARIO``; the processes of the namespace
end with this one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timers
from support.recording import Recorder
from support.waiting import eventually
from timers.events import TimerExpired, WorkerExited, WorkerKilled

if TYPE_CHECKING:
    from collections.abc import Callable

_AFTER = 0.4


def fork(body: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            body()
        finally:
            os._exit(0)
    return pid


def fork_with(pid: int, body: Callable[[], None]) -> None:
    """Start a process that gets this very pid, whose last owner has ended."""
    time.sleep(0.03)  # start times are in ticks of 10 ms; pids are never recycled faster than that
    for _ in range(100):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        got = fork(body)
        if got == pid:
            return
        os.kill(got, signal.SIGKILL)  # a thread was started meanwhile
        os.waitpid(got, 0)
    raise AssertionError(f"pid {pid} could not be had")


def forever() -> None:
    while True:
        signal.pause()


def alive(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG) == (0, 0)


class Scenario:
    def __init__(self) -> None:
        self.path = str(Path(tempfile.mkdtemp()) / "pipe")
        self.recorder = Recorder()
        self.server = timers.FileTimerServer(
            self.path, observer=self.recorder, before_kill=self.before_kill
        )
        self.during_dump: Callable[[], None] = lambda: None
        self.server.start()

    def before_kill(self, run_id: str, expired: dict[int, list[str]]) -> None:
        del run_id, expired
        self.during_dump()

    def client(self) -> timers.FileTimerClient:
        return timers.FileTimerClient(self.path)

    def worker(self, *, after: float = _AFTER) -> int:
        """One that has acquired its timer and waits; its server knows it."""
        count = self.server.statistics.requests

        def body() -> None:
            self.client().acquire("work", time.time() + after)
            forever()

        pid = fork(body)
        eventually(lambda: self.server.statistics.requests > count)
        return pid

    def end(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def sentinel(self) -> int:
        """A worker that is reaped: by then all that was due before has been done."""
        pid = self.worker(after=0.2)
        self.recorder.wait(WorkerKilled, pid, timeout=30)
        os.waitpid(pid, 0)
        return pid

    def report(self, pid: int) -> None:
        found = {
            "alive": alive(pid),
            "events": self.recorder.names(pid),
            "outcomes": [event.outcome for event in self.recorder.of(WorkerKilled, pid)],
            "rejected": {r: n for r, n in self.server.statistics.rejected.items() if n},
            "timers": [f"{owner} {scope}" for owner, scope in self.server._timers],
            "workers": self.server.statistics.workers,
            "pid": pid,
        }
        sys.stdout.write(json.dumps(found) + "\n")

    # -- what a test can ask for ---------------------------------------------------------------

    def before_the_deadline(self) -> None:
        """The worker exits, another process takes its pid, and only then the server looks."""
        pid = self.worker(after=1.0)
        with self.server._watchdog.lock:
            self.end(pid)
            fork_with(pid, forever)
            time.sleep(1.2)  # the deadline passes
        self.recorder.wait(WorkerExited, pid)
        self.sentinel()
        self.report(pid)

    def late_message(self) -> None:
        """The server first hears of the worker when its pid belongs to another process."""
        with self.server._watchdog.lock:
            pid = fork(lambda: self.client().acquire("work", time.time() + 0.1))
            os.waitpid(pid, 0)
            fork_with(pid, forever)
        eventually(lambda: self.server.statistics.rejected["identity_mismatch"])
        self.sentinel()
        self.report(pid)

    def successor_is_a_worker(self) -> None:
        """A late message of the worker arrives when its successor has timers of its own."""
        with self.server._watchdog.lock:
            client = self.client()
            pid = fork(lambda: client.acquire("work", time.time() + 0.1))
            os.waitpid(pid, 0)

            def body() -> None:
                self.client().acquire("own", time.time() + 3600)
                forever()

            fork_with(pid, body)
        eventually(lambda: self.server.statistics.scopes.get("own"))
        self.sentinel()
        self.report(pid)

    def during_the_dump(self) -> None:
        """While its stack is taken the worker exits; its successor is a worker, too."""

        def during_dump() -> None:
            self.during_dump = lambda: None
            self.end(pid)

            def body() -> None:
                self.client().acquire("own", time.time() + 3600)
                forever()

            fork_with(pid, body)
            eventually(lambda: self.server.statistics.scopes.get("own"))

        self.during_dump = during_dump
        pid = self.worker()
        self.recorder.wait(WorkerKilled, pid)
        assert self.recorder.of(TimerExpired, pid)
        self.sentinel()
        self.report(pid)


if __name__ == "__main__":
    getattr(Scenario(), sys.argv[1])()
