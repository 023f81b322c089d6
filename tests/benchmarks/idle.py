"""A service that has nothing to do: its memory, its wake-ups and its CPU time.

``timers serve`` at its own settings, with nobody connected and with a hundred idle workers that
hold a timer each. A wake-up is a context switch of any of its threads. What its settings ask for
is to look after itself every ``max_interval`` seconds, and to watch for stalls, which is measured
apart: that looks at every worker again and again.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from observability.settings import Settings

from .table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .effort import Effort

__all__ = ["ALONE", "ASKED", "WAKE_UPS", "WITH_WORKERS", "rows", "title"]

WAKE_UPS = "wake-ups a second"
ASKED = "wake-ups a second that its settings ask for (1 / max_interval)"
ALONE = "no worker"
WITH_WORKERS = "100 idle workers with a timer each"
STALLS = "the same, watched for stalls"
_COUNT = 100
_SERVE = "from observability.cli.main import main; main(prog_name='timers')"
_WORKERS = """
import os, sys, timers
client = timers.FileTimerClient(sys.argv[1])
with timers.expires(60, "once", client=client):  # if this fails, it fails once
    pass
pids = []
for _ in range(int(sys.argv[2])):
    pid = os.fork()
    if pid == 0:
        try:
            timers.expires(36_000, "idle", client=client).__enter__()
            os.write(1, b".")
            os.read(0, 1)  # until nobody needs it any more
        finally:
            os._exit(0)
    pids.append(pid)
for pid in pids:
    os.waitpid(pid, 0)
"""


def title(what: str, who: str) -> str:
    """What a row of the table is called."""
    return f"{what}, {who}"


class _Glance(NamedTuple):
    """What the kernel has counted for a process so far."""

    time: float
    switches: int
    cpu: float
    """Seconds."""


def rows(effort: Effort) -> Iterator[Row]:
    """Measure."""
    with tempfile.TemporaryDirectory() as directory:
        pipe = f"{directory}/timers.pipe"
        with _service(pipe, "--stall-after", "0") as pid:
            yield Row(ASKED, [1 / Settings(run_id="").max_interval], "1/s")
            yield from _rows(pid, ALONE, effort)
            with _workers(pipe):
                yield from _rows(pid, WITH_WORKERS, effort)
        with _service(pipe) as pid, _workers(pipe):
            yield from _rows(pid, STALLS, effort)


def _rows(pid: int, who: str, effort: Effort) -> Iterator[Row]:
    time.sleep(effort.of(2.0, 0.2))  # what began with the start has come to rest
    # Each as long as max_interval, so that each has one look at itself.
    seconds = effort.of(Settings(run_id="").max_interval, 0.5)
    glances = [_glance(pid)]
    for _ in range(effort.of(4, 2)):
        time.sleep(seconds)
        glances.append(_glance(pid))
    spans = [(old, new, new.time - old.time) for old, new in pairwise(glances)]
    switches = [(new.switches - old.switches) / lasted for old, new, lasted in spans]
    cpu = [(new.cpu - old.cpu) / lasted for old, new, lasted in spans]
    yield Row(title(WAKE_UPS, who), switches, "1/s", ASKED)
    yield Row(title("CPU of one core", who), cpu, "%")
    for name in ("Rss", "Pss"):
        yield Row(title(f"memory, {name.upper()}", who), [_memory(pid, name)], "MiB")
    threads = float(len(os.listdir(f"/proc/{pid}/task")))
    yield Row(title("threads", who), [threads], "")


@contextlib.contextmanager
def _service(pipe: str, *options: str) -> Iterator[int]:
    command = [sys.executable, "-c", _SERVE, "serve", "--timer-file", pipe]
    command += ["--http", "127.0.0.1:0", "--events", f"{pipe}.events", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr
        try:
            process.stderr.readline()  # "serves http://..."
            yield process.pid
        finally:
            process.terminate()


@contextlib.contextmanager
def _workers(pipe: str) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", _WORKERS, pipe, str(_COUNT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        ready = process.stdout.read(_COUNT)
        if len(ready) < _COUNT:
            raise RuntimeError(f"only {len(ready)} of {_COUNT} workers could enter their block")
        yield


def _glance(pid: int) -> _Glance:
    switches = 0
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = (task / "status").read_text()
            # proc(5): time on a CPU, time waiting for one, number of times it was given one.
            nanoseconds += int((task / "schedstat").read_text().split()[0])
            switches += sum(
                int(line.split()[1]) for line in status.splitlines() if "_ctxt_switches:" in line
            )
    return _Glance(time.monotonic(), switches, nanoseconds / 1e9)


def _memory(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return float(line.split()[1]) * 1024
    raise RuntimeError(f"no {name} in /proc/{pid}/smaps_rollup")
