"""A real timer service with real workers, for people to look at.

    service.py DIRECTORY RUN_ID KIND

prints ``ready PORT`` and goes on until it is killed, together with its workers. What happens in
each kind is in :mod:`workers` but for what a service itself can suffer:

- ``failing``: its kills do not work, as on a worker in an uninterruptible sleep;
- ``silent``: its watchdog hangs, its HTTP side does not;
- ``leaving``: it is going to be killed;
- ``still``: its job stands still, without a timer;
- ``near``: its log is on a full disk, and a sink of somebody's own is stuck.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from signal import SIGKILL
from unittest import mock

import observability.service
from observability.http.address import Address
from observability.settings import Settings
from timers import FileTimerServer, ReapPolicy
from timers.clock import SystemClock

WORKERS = Path(__file__).with_name("workers.py")
BEHIND_SECONDS = 110.0
RESTART_SECONDS = 0.5


class ClockBehind(SystemClock):
    """The wall clock of a host that is nearly as late as an alert would wait."""

    def time(self) -> float:
        """Seconds since the epoch."""
        return super().time() - BEHIND_SECONDS


class Powerless(FileTimerServer):
    """A server whose kills change nothing."""

    def _reap_worker(self, worker_id: int, signal: int = SIGKILL) -> bool:
        del worker_id, signal
        return False


class StuckSink:
    """Takes one event, any event, and never returns."""

    name = "warehouse"
    wants_requests = True

    def __call__(self, event: object) -> None:
        """Be stuck."""
        del event
        threading.Event().wait()


def keep_running(name: str, path: str) -> None:
    """Do what a launcher does: start a worker again whenever it ends."""
    while True:
        with subprocess.Popen([sys.executable, str(WORKERS), path, name]) as process:
            process.wait()
        time.sleep(RESTART_SECONDS)


def main() -> None:
    """Serve until killed."""
    directory, run_id, kind = sys.argv[1:]
    servers = {
        "failing": Powerless,
        "silent": functools.partial(FileTimerServer, clock=ClockBehind()),
        "leaving": functools.partial(FileTimerServer, clock=ClockBehind()),
    }
    mock.patch("observability.service.FileTimerServer", servers.get(kind, FileTimerServer)).start()
    path = f"{directory}/{kind}.pipe"
    settings = Settings(
        run_id=run_id,
        http=Address("127.0.0.1", 0),
        events="/dev/full" if kind == "near" else f"{directory}/{kind}.jsonl",
        max_interval=1.0,
        stall_after=2.0 if kind == "still" else 0.0,
    )
    # Who has sent nothing is part of the job when it descends from the watchdog.
    policy = ReapPolicy(grace=0.5, descendants_of=os.getpid() if kind == "still" else None)
    service = observability.service.Service(path, settings, policy)
    if kind == "near":
        service.pipeline.add(StuckSink())
    service.start()
    assert service.address is not None
    sys.stdout.write(f"ready {service.address.port}\n")
    sys.stdout.flush()
    names = {"near": ["near", "near", "near", "late", "busy"], "failing": ["steady", "unkillable"]}
    names["still"] = ["still"]
    names["reaping"] = ["steady", "stuck", "stuck", "stuck"]
    for name in names.get(kind, ["steady", "steady"]):
        threading.Thread(target=keep_running, args=(name, path), daemon=True).start()
    if kind == "silent":
        time.sleep(5)
        with service.server._watchdog.lock:
            threading.Event().wait()
    threading.Event().wait()


if __name__ == "__main__":
    main()
