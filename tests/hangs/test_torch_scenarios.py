"""Hangs of torch jobs over gloo: a rank that stays away, one that is elsewhere, its data loader."""

from __future__ import annotations

import linecache

import pytest

from hangs.jobs import job
from observability.hang.report import analyse
from observability.hang.text import render
from observability.hang.types import Verdict
from support.processes import VICTIMS
from support.torch import require_torch

require_torch()

FILE = str(VICTIMS / "hang_torch.py")


def source(frame: str | None) -> str:
    assert frame is not None
    place, _, _ = frame.partition(" ")
    file, _, line = place.rpartition(":")
    assert file == FILE
    return linecache.getline(file, int(line)).strip()


@pytest.mark.parametrize("size", [2, 4])
def test_the_rank_that_never_enters_the_collective(size: int) -> None:
    with job(size, "all_reduce", "never_entering", [size - 1], victim="hang_torch") as running:
        report = analyse(running.views())
    assert report.verdict is Verdict.ONE_SUSPECT, render(report)
    [suspect] = report.suspects
    assert suspect.rank == size - 1
    assert source(suspect.frame) == "time.sleep(1000)"
    assert "waiting in all_reduce" in report.sentence


def test_the_rank_that_is_in_another_collective() -> None:
    with job(4, "all_reduce", "gathering_instead", [2], victim="hang_torch") as running:
        views = running.views()
    report = analyse(views)
    assert report.verdict is Verdict.DIFFERENT_COLLECTIVES, render(report)
    [suspect] = report.suspects
    assert suspect.rank == 2
    assert source(suspect.frame).startswith("dist.all_gather(")
    assert analyse(views[1:3]).suspects == ()
    assert analyse(views[1:3]).verdict is Verdict.DIFFERENT_COLLECTIVES


def test_the_data_loader_whose_worker_is_stuck() -> None:
    with job(2, "all_reduce", "data_loading", [0], victim="hang_torch") as running:
        report = analyse(running.views())
    assert report.verdict is Verdict.ONE_SUSPECT, render(report)
    [suspect] = report.suspects
    assert suspect.rank == 0
    assert suspect.child_pid is not None
    assert source(suspect.frame) == "time.sleep(1000)"
    assert [source(line) for line in suspect.also] == ["for _ in loader:"]
