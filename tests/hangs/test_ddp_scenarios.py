"""Data-parallel jobs over gloo that hang: the right ranks and lines, and nobody else's name.

The cases are what people report of torch jobs. Each runs as a real job, once with torch's Flight
Recorder and once without: all of them three times where ``TIMERS_LONG_TESTS`` is set, which takes
ten minutes and more, else some of them once.
"""

from __future__ import annotations

import contextlib
import json
import linecache
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from observability.hang.explain import sample_job
from observability.hang.report import analyse
from observability.hang.text import render
from observability.hang.types import HangReport, Verdict
from support.processes import VICTIMS
from support.torch import require_torch
from support.waiting import eventually
from timers.linux import procfs
from timers.stacks.take import take

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

require_torch()

FILE = str(VICTIMS / "hang_ddp.py")
LONG = bool(os.environ.get("TIMERS_LONG_TESTS"))
RUNS = 3 if LONG else 1
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
    blind: tuple[Verdict, ...] = ()
    """Verdicts, besides the same, that are right without the recorder."""

    def __str__(self) -> str:
        return self.name


RECV = ("ours.recv(1)",)
CASES = [
    Case("barrier_while_saving", OTHERS, (1,), ("dist.barrier()",), ("save",), holds_up="barrier"),
    Case("data_ends_early", OTHERS, (3,), ("dist.barrier()",), ("save",), holds_up="barrier"),
    Case("two_reading", MANY, (1, 2), RECV, ("read_shard",)),
    Case("first_reading", ONE, (0,), RECV, ("read_shard",)),
    Case("left_out", ONE, (2,), ("time.sleep(1000)",), ("leave_out",), holds_up="all_reduce"),
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
FEW = {
    True: (
        "barrier_while_saving", "two_reading", "first_reading", "pickling", "evaluating", "polling",
        "lock_and_poll", "named_like_a_collective", "loader", "uploader", "two_groups",
    ),
    False: ("data_ends_early", "two_reading", "multiplying", "gil"),
}  # fmt: skip
"""Those that always run, with the recorder and without it."""


def chosen(*, recorder: bool) -> list[Case]:
    return [case for case in CASES if LONG or case.name in FEW[recorder]]


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A process that has imported torch, and forks the ranks of one job after another."""
    recorders = str(tmp_path_factory.mktemp("recorders"))  # as "timers run" makes it
    process = subprocess.Popen(
        [sys.executable, FILE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(VICTIMS.parent),
            "TIMERS_RECORDER_DIR": recorders,
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


def explained(pids: list[int]) -> HangReport:
    """What a roll call says when the timers of all ranks have expired."""
    views, size = sample_job(pids, timeout=20, host="node1")
    expired = [replace(view, expired=True, scope_id="train_step") for view in views]
    return analyse(expired, world_size=size)


@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize("case", chosen(recorder=True), ids=str)
def test_with_the_recorder(
    launcher: subprocess.Popen[str], case: Case, run: int, tmp_path: Path
) -> None:
    with job(launcher, case, tmp_path, recorder=True) as pids:
        report = explained(pids)
    assert report.verdict is case.verdict, render(report)
    named = report.suspects or report.lagging
    assert tuple(each.rank for each in named) == case.named, render(report)
    for each in named:
        assert not case.lines or source(each.frame) in case.lines, render(report)
        assert case.holds_up in each.holds_up, render(report)
    assert all(f"rank {rank}" in report.sentence.lower() for rank in case.named[:1])
    assert run >= 0


@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize("case", chosen(recorder=False), ids=str)
def test_without_the_recorder_nobody_else_is_accused(
    launcher: subprocess.Popen[str], case: Case, run: int, tmp_path: Path
) -> None:
    with job(launcher, case, tmp_path, recorder=False) as pids:
        report = explained(pids)
    accused = tuple(each.rank for each in report.suspects)
    assert set(accused) <= (set() if case.verdict is SLOW else set(case.named)), render(report)
    if accused == case.named:
        assert all(not case.lines or source(s.frame) in case.lines for s in report.suspects)
    assert run >= 0


def source(frame: str | None) -> str:
    """The source of the line that ``file:line function`` names."""
    assert frame is not None
    place, _, _ = frame.partition(" ")
    file, _, line = place.rpartition(":")
    assert file == FILE, frame
    return linecache.getline(file, int(line)).strip()
