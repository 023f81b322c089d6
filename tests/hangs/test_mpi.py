"""Jobs of a real mpirun: ranks that wait for each other by spinning, and one that does not."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from observability.explain.job import sample_job
from observability.hang.report import analyse
from observability.hang.text import render
from observability.hang.types import Verdict
from support.mpi import mpirun
from support.processes import VICTIMS
from support.waiting import eventually
from timers.stacks.take import take

if TYPE_CHECKING:
    from collections.abc import Iterator

VICTIM = VICTIMS / "hang_mpi.py"


@contextlib.contextmanager
def job(odd: int, *how: str) -> Iterator[list[int]]:
    """The pids of three ranks, once each is where it stays."""
    command = [*mpirun(3, with_mpi4py=not how), str(VICTIM), str(odd), *how]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        said = [json.loads(process.stdout.readline()) for _ in range(3)]
        pids = {each["rank"]: each["pid"] for each in said}
        for pid in pids.values():
            eventually(lambda pid=pid: _is_there(pid), f"{pid} hangs", 60)  # type: ignore[misc]  # bound
        yield [pids[rank] for rank in sorted(pids)]
    finally:
        process.send_signal(signal.SIGTERM)  # mpirun ends its ranks
        process.wait(60)
        process.stdout.close()


def _is_there(pid: int) -> bool:
    functions = {frame.function for t in take(pid, timeout=30).threads for frame in t.frames}
    return bool(functions & {"receive", "reduce_gradients", "reduce_in_c"})


@pytest.mark.process
@pytest.mark.parametrize(
    ("odd", "how", "operation"),
    [(2, (), "allreduce"), (0, ("ctypes",), "barrier")],
    ids=["mpi4py", "ctypes"],
)
def test_of_ranks_that_spin_and_one_that_reads_the_one_that_reads(
    odd: int, how: tuple[str, ...], operation: str
) -> None:
    with job(odd, *how) as pids:
        views, size = sample_job(pids, timeout=20)
        report = analyse(views, world_size=size)
    assert report.verdict is Verdict.ONE_SUSPECT, render(report)
    [suspect] = report.suspects
    assert suspect.rank == odd
    assert suspect.frame is not None
    assert suspect.frame.endswith(" receive")
    assert f"2 ranks are waiting in {operation}" in report.sentence
