"""Data-parallel jobs over gloo that hang: the right ranks and lines, and nobody else's name.

The cases are what people report of torch jobs. Each runs as a real job, once with torch's Flight
Recorder and once without: all of them three times where ``TIMERS_LONG_TESTS`` is set, which takes
ten minutes and more, else some of them once. ``python -m tests.hangs`` makes a table of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hangs.ddp import CASES, SLOW, Case, explained, job, launcher, source
from observability.hang.text import render
from observability.hang.types import Verdict
from support.long_tests import LONG
from support.torch import require_torch

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

require_torch()

RUNS = 3 if LONG else 1
FEW = {
    True: (
        "barrier_while_saving", "two_reading", "first_reading", "pickling", "evaluating", "polling",
        "lock_and_poll", "named_like_a_collective", "loader", "uploader", "two_groups",
    ),
    False: ("data_ends_early", "two_reading", "asleep", "multiplying", "gil"),
}  # fmt: skip
"""Those that always run, with the recorder and without it."""


def chosen(*, recorder: bool) -> list[Case]:
    return [case for case in CASES if LONG or case.name in FEW[recorder]]


@pytest.fixture(scope="module", name="started")
def _started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    with launcher(tmp_path_factory.mktemp("recorders")) as process:
        yield process


@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize("case", chosen(recorder=True), ids=str)
def test_with_the_recorder(
    started: subprocess.Popen[str], case: Case, run: int, tmp_path: Path
) -> None:
    with job(started, case, tmp_path, recorder=True) as pids:
        report = explained(pids)
        if case.verdict is SLOW and report.verdict is Verdict.INCONCLUSIVE:
            report = explained(pids)  # a busy machine: what runs could not be read often enough
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
    started: subprocess.Popen[str], case: Case, run: int, tmp_path: Path
) -> None:
    with job(started, case, tmp_path, recorder=False) as pids:
        reports = [explained(pids), *([explained(pids, timers=False)] if case.seen else [])]
    for report in reports:
        accused = tuple(each.rank for each in report.suspects)
        assert set(accused) <= (set() if case.verdict is SLOW else set(case.named)), render(report)
        if accused == case.named:
            assert all(not case.lines or source(s.frame) in case.lines for s in report.suspects)
        assert accused == case.named or not case.seen, render(report)
    assert run >= 0
