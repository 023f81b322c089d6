"""Data-parallel jobs over gloo that hang, as people report them, and what is to be said of each."""

from __future__ import annotations

import contextlib
import json
import linecache
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from observability.explain.job import sample_job
from observability.hang.report import analyse
from observability.hang.types import HangReport, Verdict
from support.processes import VICTIMS
from support.waiting import eventually
from timers.linux import procfs
from timers.stacks.take import take

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["CASES", "SLOW", "Case", "explained", "job", "launcher", "source"]

FILE = str(VICTIMS / "hang_ddp.py")
ONE, MANY, OTHERS = Verdict.ONE_SUSPECT, Verdict.SEVERAL_SUSPECTS, Verdict.DIFFERENT_COLLECTIVES
SLOW, CYCLE, COMMON = Verdict.SLOW, Verdict.CYCLE, Verdict.COMMON_WAIT


@dataclass(frozen=True)
class Case:
    """One way to hang, and what is to be said of it."""

    name: str
    verdict: Verdict
    named: tuple[int, ...]
    """Ranks: accused or, of a slow run, held up by."""
    lines: tuple[str, ...] = ()
    """Source of the lines that matter, any of them; of each that is named."""
    inside: tuple[str, ...] = ()
    """Functions, one of which each named rank (or its child) is in once it is stuck."""
    size: int = 4
    holds_up: str = ""
    seen: bool = False
    """Whether the C frames of those who wait in backward tell it without the recorder."""

    def __str__(self) -> str:
        return self.name


RECV, SLEEP = ("ours.recv(1)",), ("time.sleep(1000)",)
CASES = [
    Case("barrier_while_saving", OTHERS, (1,), ("dist.barrier()",), ("save",), holds_up="barrier"),
    Case("data_ends_early", OTHERS, (3,), ("dist.barrier()",), ("save",), holds_up="barrier"),
    Case("two_reading", MANY, (1, 2), RECV, ("read_shard",), seen=True),
    Case("first_reading", ONE, (0,), RECV, ("read_shard",), seen=True),
    Case("left_out", ONE, (2,), SLEEP, ("leave_out",), holds_up="all_reduce", seen=True),
    Case("asleep", ONE, (1,), SLEEP, ("leave_out",), size=2, holds_up="all_reduce", seen=True),
    Case("pickling", SLOW, (2,), (), ("gather_results",), holds_up="all_gather"),
    Case("multiplying", SLOW, (2,), (), ("multiply",)),
    Case("evaluating", SLOW, (2,), (), ("evaluate",)),
    Case("all_multiplying", SLOW, (0, 1, 2, 3), (), ("multiply",)),
    Case("polling", ONE, (2,), ("while os.path.exists(directory):",), ("wait_while_there",)),
    Case("polling_asleep", ONE, (1,), (), ("wait_for_checkpoint",)),
    Case("lock_and_poll", CYCLE, (0, 1), (), ("take_the_lock", "hold_the_lock")),
    Case("named_like_a_collective", ONE, (2,), RECV, ("train_allreduce",)),
    Case("loader", ONE, (0,), ("time.sleep(1000)",), ("read_record",)),
    Case("pool", ONE, (1,), ("time.sleep(1000)",), ("read_record",)),
    Case("gil", ONE, (1,), (), ("hold_the_gil",)),
    Case("stopped", ONE, (3,), (), ("stop",)),
    Case("barrier_in_finally", OTHERS, (2,), ("dist.barrier()",), ("clean_up",)),
    Case("store_key", ONE, (2,), (), ("wait_for_key",)),
    Case("thread_lock", ONE, (2,), ("lock.acquire()",), ("lock_twice",)),
    Case("uploader", ONE, (1,), RECV, ("read_shard",)),
    Case("send_circle", COMMON, (), (), ("send_to_the_other",), size=2),
    Case("pipeline", ONE, (0,), RECV, ("read_shard",)),
    Case("two_groups", ONE, (3,), RECV, ("read_shard",), holds_up="of default_pg"),
]


@contextlib.contextmanager
def launcher(recorders: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has imported torch, and forks the ranks of one job after another.

    :param recorders: a directory for the recorders of the ranks, as "timers run" makes it.
    """
    process = subprocess.Popen(
        [sys.executable, FILE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(VICTIMS.parent),
            "TIMERS_RECORDER_DIR": str(recorders),
        },
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@contextlib.contextmanager
def job(
    launcher: subprocess.Popen[str], case: Case, directory: Path, *, recorder: bool
) -> Iterator[list[int]]:
    """The pids of the ranks, once each of them is where it hangs."""
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    asked = {"case": case.name, "size": case.size, "recorder": recorder}
    launcher.stdin.write(json.dumps({**asked, "directory": str(directory)}) + "\n")
    launcher.stdin.flush()
    try:
        pids: dict[int, int] = {}
        while len(pids) < case.size:
            said = json.loads(launcher.stdout.readline())
            pids[said["rank"]] = said["pid"]
        for rank, pid in pids.items():
            odd = rank in case.named or case.verdict is COMMON
            eventually(lambda pid=pid, odd=odd: _is_there(pid, case, odd=odd), f"{rank} hangs", 60)  # type: ignore[misc]  # bound
        yield [pids[rank] for rank in sorted(pids)]
    finally:
        launcher.stdin.write("end\n")
        launcher.stdin.flush()
        while launcher.stdout.readline() != "ended\n":
            pass


WAITING = ("_engine_run_backward", "all_reduce", "all_gather", "recv")


def _is_there(pid: int, case: Case, *, odd: bool) -> bool:
    if case.name in ("loader", "pool") and odd:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return any(_calls(int(child)) & {"read_record"} for child in file.read().split())
    if odd and case.name == "stopped":
        found = procfs.stat(pid)
        return found is not None and found.state == "T"
    return bool(_calls(pid) & set(case.inside if odd else WAITING))


def _calls(pid: int) -> set[str]:
    dump = take(pid, timeout=30)
    return {frame.function.rpartition(".")[2] for t in dump.threads for frame in t.frames}


def explained(pids: list[int], *, timers: bool = True) -> HangReport:
    """What a roll call says when the timers of all ranks have expired, or without any timers."""
    views, size = sample_job(pids, timeout=20, host="node1")
    if timers:
        views = [replace(view, expired=True, scope_id="train_step") for view in views]
    return analyse(views, world_size=size)


def source(frame: str | None) -> str:
    """The source of the line that ``file:line function`` names."""
    assert frame is not None
    place, _, _ = frame.partition(" ")
    file, _, line = place.rpartition(":")
    assert file == FILE, frame
    return linecache.getline(file, int(line)).strip()
