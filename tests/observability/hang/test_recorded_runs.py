"""The verdict on what the ranks of real NCCL jobs said when they were stuck."""

from __future__ import annotations

from dataclasses import replace

import pytest

from observability.hang.report import analyse
from observability.hang.text import render
from observability.hang.types import Confidence, Verdict
from observability.recorder.types import Recording
from support import recorded

ALL_REDUCE = "all_reduce #26 of default_pg (68,362 floats)"
SHARED = ["the flight recorder"]


def test_a_rank_that_has_not_joined() -> None:
    report = analyse(recorded.views("skip"))
    assert report.verdict is Verdict.ONE_SUSPECT
    assert report.confidence is Confidence.HIGH
    [suspect] = report.suspects
    assert (suspect.rank, suspect.frame) == (2, "/job/train.py:18 fetch_shard")
    assert suspect.holds_up == f"has not joined {ALL_REDUCE}"
    assert list(report.evidence) == SHARED
    assert report.sentence.endswith(
        f"has not joined {ALL_REDUCE} while 3 ranks are waiting in it at /job/train.py:67 main."
    )
    assert "(by the flight recorder)" in render(report)


def test_a_rank_that_called_something_else() -> None:
    report = analyse(recorded.views("mismatch"))
    assert report.verdict is Verdict.DIFFERENT_COLLECTIVES
    [suspect] = report.suspects
    assert suspect.rank == 1
    assert suspect.holds_up == (
        f"called {ALL_REDUCE} where ranks 0, 2-3 called all_reduce #26 of default_pg (1 float)"
    )
    assert list(report.evidence) == SHARED


def test_a_rank_whose_gpu_is_busy() -> None:
    report = analyse(recorded.views("kernel"))
    [suspect] = report.suspects
    assert suspect.rank == 3
    assert report.confidence is not Confidence.HIGH
    assert suspect.holds_up == f"has enqueued {ALL_REDUCE}, but its GPU has not started it"


def test_a_busy_gpu_is_not_to_be_told_without_timing() -> None:
    untimed = [
        replace(view, recording=_without_timing(view.recording))
        for view in recorded.views("kernel")
    ]
    report = analyse(untimed)
    assert report.verdict is Verdict.COMMON_WAIT
    assert report.suspects == ()
    assert f"all have joined {ALL_REDUCE} and none has completed it" in report.reason
    assert "the device or the network" in report.sentence


def _without_timing(recording: Recording | None) -> Recording:
    assert recording is not None
    return replace(recording, timed=False)


def test_each_group_has_its_own_numbers() -> None:
    report = analyse(recorded.views("groups"))
    [suspect] = report.suspects
    assert (suspect.rank, suspect.frame) == (3, "/job/train.py:18 fetch_shard")
    assert "has not joined all_reduce #21 of group 2 (8 floats)" in suspect.holds_up
    assert f"has not joined {ALL_REDUCE}" in suspect.holds_up
    places = {group.ranks: group.what for group in report.groups}
    assert places[2,] == "waiting in all_reduce #21 of group 2 (8 floats)"
    assert places[0, 1] == f"waiting in {ALL_REDUCE}"


SMALLER = "all_reduce #26 of default_pg (34,186 floats)"


def test_a_rank_that_holds_the_lock_of_the_interpreter() -> None:
    report = analyse(recorded.views("gil"))
    [suspect] = report.suspects
    assert (suspect.rank, suspect.frame) == (1, "/job/train.py:39 hold_the_gil")
    assert suspect.holds_up == f"has not joined {SMALLER}"
    assert report.confidence is Confidence.HIGH


def test_a_rank_that_works_has_a_gpu_too() -> None:
    report = analyse(recorded.slow_views())
    assert report.verdict is Verdict.SLOW
    [lagging] = report.lagging
    assert (lagging.rank, lagging.frame) == (2, "/job/train.py:45 preprocess")
    assert lagging.holds_up == f"has not joined {SMALLER}"
    assert report.suspects == ()


def test_a_rank_whose_data_has_ended() -> None:
    report = analyse(recorded.views("uneven"))
    assert report.verdict is Verdict.DIFFERENT_COLLECTIVES
    [suspect] = report.suspects
    assert suspect.rank == 3
    assert "barrier" in suspect.holds_up


ODD = {
    "skip": 2, "mismatch": 1, "kernel": 3, "groups": 3, "gil": 1, "slow": 2, "uneven": 3,
}  # fmt: skip


@pytest.mark.parametrize(("case", "odd"), ODD.items())
def test_a_rank_without_an_answer_accuses_nobody_else(case: str, odd: int) -> None:
    for silent in range(4):
        views = recorded.views(case)
        views[silent] = replace(views[silent], recording=Recording(error="no answer within 1 s"))
        accused = {suspect.rank for suspect in analyse(views).suspects}
        assert accused <= {odd}, (silent, render(analyse(views)))


@pytest.mark.parametrize(("case", "odd"), ODD.items())
def test_without_a_recorder_nobody_is_accused_of_spinning(case: str, odd: int) -> None:
    report = analyse(recorded.views(case, recorder=False))
    assert {suspect.rank for suspect in report.suspects} <= {odd}
    assert report.confidence is not Confidence.HIGH
