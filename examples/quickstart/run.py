"""Compress Python's standard library with three workers, one of which gets stuck.

Start it under a watchdog, which gets the stuck worker out of the way::

    timers run -- python examples/quickstart/run.py
"""

from __future__ import annotations

import gzip
import http.client
import multiprocessing as mp
import os
import re
import signal
import sys
import tempfile
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

from mirrors import LIBRARY, Mirror, TiredMirror, serve
from worker import work

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

WORKERS = 3
ATTEMPTS = 3

# Fresh interpreters: a launcher that has threads should not fork.
processes = mp.get_context("spawn")


def main() -> None:
    """Run the job; exit status 0 only if every file is there and correct."""
    if "TIMERS_FILE" not in os.environ:
        sys.exit(f"one worker will get stuck for ever, so use: timers run -- python {sys.argv[0]}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the workers
    names = sorted(path.name for path in LIBRARY.glob("*.py"))
    with tempfile.TemporaryDirectory(prefix="quickstart-") as folder:
        supervise(names, Path(folder))
        check(names, Path(folder))
    print_totals()


def supervise(names: list[str], folder: Path) -> None:
    """What a launcher does: start the workers, and start again those that die."""
    good, tired = serve(Mirror), serve(TiredMirror)

    def start(number: int, mirror: str) -> SpawnProcess:
        arguments = (mirror, names[number::WORKERS], folder)
        process = processes.Process(target=work, args=arguments, daemon=True)
        process.start()
        say(f"worker {number}: pid {process.pid}, attempt {attempts[number]}, from http://{mirror}")
        return process

    attempts = dict.fromkeys(range(WORKERS), 1)
    running = {number: start(number, tired if number == 1 else good) for number in attempts}
    while running:
        wait([process.sentinel for process in running.values()])
        for number, process in list(running.items()):
            if process.is_alive():
                continue
            if process.exitcode == 0:
                say(f"worker {number}: pid {process.pid} has finished")
                del running[number]
                continue
            say(f"worker {number}: pid {process.pid} {fate(process)}")
            attempts[number] += 1
            if attempts[number] > ATTEMPTS:
                sys.exit(f"worker {number}: given up after {ATTEMPTS} attempts")
            running[number] = start(number, good)


def fate(process: SpawnProcess) -> str:
    """How a worker that did not finish ended."""
    code = process.exitcode or 0
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with {code}"


def check(names: list[str], folder: Path) -> None:
    """Compare every file with its original."""
    for name in names:
        if gzip.decompress((folder / f"{name}.gz").read_bytes()) != (LIBRARY / name).read_bytes():
            sys.exit(f"{name}: what was stored is not what is in {LIBRARY}")
    say(f"all {len(names)} files fetched, compressed and checked")


def print_totals() -> None:
    """Print what the watchdog counted, from its ``/metrics``."""
    address = os.environ.get("TIMERS_HTTP")
    if not address:
        return
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    totals = dict.fromkeys(("acquires", "releases", "expirations", "reaps"), 0.0)
    for name, value in re.findall(r"^timers_(\w+)_total\{.*\} (\S+)$", text, re.MULTILINE):
        if name in totals:
            totals[name] += float(value)
    say("totals: " + ", ".join(f"{value:.0f} {name}" for name, value in totals.items()))


def say(text: str) -> None:
    """Print at once, so that lines are in order with those of the watchdog."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
