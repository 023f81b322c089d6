"""An hour of ordinary work in which nothing may be called a stall: ``python -m tests.ordinary``.

From the top of the tree; ``python -m tests.ordinary MINUTES`` for less. Five jobs at once, each
under ``timers run`` as it comes: a long evaluation on rank 0, a checkpoint to a slow disk, a long
compile, a pool without work, and a notebook's kernel. A sixth is really stuck, and has to be named:
the watch was at work. The exit status is 1 when that one is not, when another has a stall or any
event of level warning or above, or when one ends otherwise than it should.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# What follows is found through the line above.
from support.command import Cli
from support.log_lines import read_so_far
from support.processes import VICTIMS
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
DEFAULT_STALL_AFTER = 300.0
HAS_KERNEL = importlib.util.find_spec("ipykernel") is not None
CONTROL = "stuck (the control)"
CONTROL_AFTER = "20"
PYTHON = sys.executable
TORCHRUN = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
RANKS = [*TORCHRUN, str(HERE / "ranks.py")]
ALONE = [PYTHON, str(HERE / "alone.py")]
DRAIN_BYTES = 64 * 1024
BYTES_PER_SECOND = 200_000
LATE_SECONDS = 180.0
"""How much longer than asked a job may take to start, to end, and to be looked at."""


class Job:
    """One of them, with what its watchdog has written."""

    def __init__(self, name: str, process: subprocess.Popen[str], events: Path) -> None:
        self.name = name
        self.process = process
        self.events = events

    def stalls(self) -> list[dict[str, Any]]:
        return [event for event in read_so_far(self.events) if event["event"] == "job stalled"]

    def alarms(self) -> list[dict[str, Any]]:
        return [
            event
            for event in read_so_far(self.events)
            if event["level"] not in ("debug", "info") or event["event"] == "job stalled"
        ]

    def names(self) -> str:
        counts = collections.Counter(str(event["event"]) for event in read_so_far(self.events))
        return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def drain(path: Path) -> None:
    """Be the slow disk: take what is written to a named pipe, little by little."""
    while True:
        with path.open("rb", buffering=0) as file:
            while file.read(DRAIN_BYTES):
                time.sleep(DRAIN_BYTES / BYTES_PER_SECOND)


def kernel_command(folder: Path) -> list[str]:
    """A real kernel, or what waits as one does where there is none."""
    if not HAS_KERNEL:
        return [PYTHON, str(VICTIMS / "explained.py"), "notebook"]
    return [PYTHON, "-m", "ipykernel_launcher", "-f", str(folder / "kernel.json")]


@contextlib.contextmanager
def cell_executed(folder: Path) -> Iterator[None]:
    """Have the kernel compute something, and end it in the end."""
    if not HAS_KERNEL:
        yield
        return
    client = importlib.import_module("jupyter_client.blocking").BlockingKernelClient()
    file = folder / "kernel.json"
    while not (file.exists() and file.stat().st_size):
        time.sleep(0.2)
    client.load_connection_file(str(file))
    client.start_channels()
    try:
        client.wait_for_ready(timeout=LATE_SECONDS)
        reply = client.execute("sum(range(1000))", reply=True, timeout=LATE_SECONDS)
        assert reply["content"]["status"] == "ok"
        yield
        client.shutdown()
    finally:
        client.stop_channels()


def run(minutes: float, stall_after: float | None, folder: Path) -> list[Job]:
    """Run all of them for that long, and return them when they have ended."""
    disk = folder / "disk"
    os.mkfifo(disk)
    threading.Thread(target=drain, args=(disk,), daemon=True).start()
    bound = stall_after or DEFAULT_STALL_AFTER
    seconds, stretch = str(60 * minutes), str(1.6 * bound)
    cli = Cli(folder)
    given = () if stall_after is None else ("--stall-after", str(stall_after))
    with contextlib.ExitStack() as stack:

        def start(name: str, command: list[str], options: tuple[str, ...] = given) -> Job:
            word = name.split(maxsplit=1)[0]
            events = folder / f"{word}.jsonl"
            output = stack.enter_context((folder / f"{word}.out").open("w"))
            http = ("--http", "127.0.0.1:0")
            process = stack.enter_context(
                cli.start(
                    *("run", *http, *options, "--events", events, "--", *command),
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
            return Job(name, process, events)

        jobs = [
            start("evaluation on rank 0", [*RANKS, "evaluate", seconds, stretch]),
            start("checkpoint to a slow disk", [*RANKS, "save", seconds, stretch, str(disk)]),
            start("compile", [*ALONE, "compile", seconds, str(1.2 * bound)]),
            start("pool without work", [*ALONE, "pool"]),
            start("kernel of a notebook", kernel_command(folder)),
            start(CONTROL, [*RANKS, "stuck", seconds, "0"], ("--stall-after", CONTROL_AFTER)),
        ]
        with cell_executed(folder):
            wait(jobs, 60 * minutes)
        finish(jobs)
    eventually(lambda: not cli.processes(), "the processes are gone")
    return jobs


def wait(jobs: list[Job], seconds: float) -> None:
    """Wait; what ends before, and each alarm as soon as it is there, is said at once."""
    end = time.monotonic() + seconds
    said: dict[str, int] = {}
    while (now := time.monotonic()) < end:
        for job in jobs:
            alarms = job.alarms()
            for event in alarms[said.get(job.name, 0) :]:
                sentence = event.get("sentence") or event.get("message")
                minute = (seconds - (end - now)) / 60
                print(f"minute {minute:.0f}, {job.name}: {event['event']}: {sentence}", flush=True)
                if job.name == CONTROL and event["event"] == "job stalled":
                    job.process.terminate()  # gloo would give up after half an hour
            said[job.name] = len(alarms)
        time.sleep(min(5.0, max(0.0, end - time.monotonic())))


def finish(jobs: list[Job]) -> None:
    """Let those end that do so by themselves, and end the others."""
    by_name = {job.name.split(maxsplit=1)[0]: job.process for job in jobs}
    pool = by_name["pool"].stdin
    assert pool is not None
    pool.close()
    if by_name["stuck"].poll() is None:
        by_name["stuck"].terminate()
    if not HAS_KERNEL:
        by_name["kernel"].terminate()
    end = time.monotonic() + LATE_SECONDS
    for job in jobs:
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.process.wait(max(0.0, end - time.monotonic()))


def differences(job: Job) -> list[str]:
    """What should not be so."""
    if job.name == CONTROL:
        suspects = [[each["rank"] for each in event["suspects"]] for event in job.stalls()]
        return [] if suspects == [[0]] else [f"suspects {suspects} and not rank 0, once"]
    found = [f"{event['event']}: {event['message']}" for event in job.alarms()]
    ended = {0} if HAS_KERNEL or not job.name.startswith("kernel") else {128 + signal.SIGTERM}
    if job.process.returncode not in ended:
        found.append(f"exit status {job.process.returncode}")
    return found


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.ordinary", description=__doc__)
    parser.add_argument("minutes", type=float, nargs="?", default=60.0, help="default 60")
    parser.add_argument("--stall-after", type=float, help="seconds; by default the product's")
    parser.add_argument("--keep", type=Path, help="leave events and output in this new directory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        jobs = run(options.minutes, options.stall_after, folder)
        failed = False
        for job in jobs:
            print(f"{job.name}: {job.names()}")
            for event in job.stalls():
                print(f"    job stalled: {event['sentence']}")
            for difference in differences(job):
                failed = True
                print(f"    WRONG: {difference}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
