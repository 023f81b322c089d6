"""What is learned of how long the scopes of a job take, and what a hang does not teach."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.events import JobStalled
from observability.hang.report import analyse
from observability.learning import Learner, Learning, learned_path
from support.command import Cli
from timers.events import Outcome, TimerExpired, TimerInfo, WorkerExited, WorkerInfo, WorkerKilled
from timers.server.statistics import DURATION_BUCKETS, Statistics

if TYPE_CHECKING:
    from pathlib import Path

    from timers.events import Event

WORKER = WorkerInfo(pid=1)
TIMER = TimerInfo(scope_id="x", expiration_time=0.0, after_seconds=1.0, signal=9)


class Job:
    """A job on a clock of its own, whose spans are ten seconds."""

    def __init__(self) -> None:
        self.statistics = Statistics()
        self.learning = Learning()
        self.learning.look(self.statistics, 0.0)
        self.now = 0.0

    def used(self, *seconds: float, scope: str = "step", first: bool = False) -> None:
        for each in seconds:
            self.statistics.scope(scope).took(each, first=first, traceparent=None)

    def span(self) -> None:
        self.now += 10.0
        self.learning.look(self.statistics, self.now)

    def known(self) -> dict[str, tuple[int, float]]:
        self.learning.learn()
        return {
            scope: (known.uses, known.longest_seconds)
            for scope, known in self.learning.known.items()
        }


def test_the_longest_use_after_the_warm_up_is_learned() -> None:
    job = Job()
    job.used(50.0, first=True)
    job.used(0.2, 0.3)
    job.span()
    job.used(0.7)
    job.span()
    assert job.known() == {"step": (3, 0.7)}


def test_more_than_the_longest_use_is_never_learned() -> None:
    job = Job()
    job.used(*[0.3] * 5)  # of a bucket that ends at 0.5
    job.used(5000.0, scope="save")
    job.span()
    assert job.known() == {"step": (5, 0.3), "save": (1, 5000.0)}


def test_what_was_under_way_when_something_went_wrong_teaches_nothing() -> None:
    job = Job()
    job.used(0.2)
    job.span()
    job.learning.went_wrong(12.0)
    job.used(0.2, scope="other rank")
    job.span()
    job.used(9.0)  # began before that
    job.span()
    job.used(0.2)
    job.span()
    assert job.known() == {"step": (2, 0.5)}


def test_what_went_wrong_may_be_known_a_moment_later() -> None:
    job = Job()
    job.used(9.0)
    job.span()
    job.learning.went_wrong(9.9)
    job.span()
    assert job.known() == {}


def test_scopes_without_a_name_of_their_own_are_not_learned() -> None:
    job = Job()
    job.used(1.0, scope="other")
    job.used(1.0)
    job.span()
    assert list(job.known()) == ["step"]


@given(
    uses=st.lists(st.tuples(st.floats(0.0, 100.0), st.floats(0.0, 30.0)), max_size=20),
    wrong=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=3),
)
def test_whatever_happens_no_use_is_learned_that_may_have_waited(
    uses: list[tuple[float, float]], wrong: list[float]
) -> None:
    job = Job()
    for moment in wrong:
        job.learning.went_wrong(moment)
    fine = []
    while job.now < 100:
        for end, took in uses:
            if job.now <= end < job.now + 10:
                job.used(took)
                if not any(end - took <= moment <= end for moment in wrong):
                    fine.append(took)
        job.span()
    longest = job.known().get("step", (0, 0.0))[1]
    most = next(bound for bound in DURATION_BUCKETS if bound >= max(fine)) if fine else 0.0
    assert longest <= most


# -- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        TimerExpired(
            timestamp=5, worker=WORKER, timer=TIMER, elapsed_seconds=1, lateness_seconds=0
        ),
        WorkerKilled(
            timestamp=5,
            worker=WORKER,
            timer=TIMER,
            elapsed_seconds=1,
            signal=9,
            outcome=Outcome.KILLED,
        ),
        WorkerExited(timestamp=5, worker=WORKER, exit_signal=11),
        WorkerExited(timestamp=5, worker=WORKER, exit_code=1),
        JobStalled(timestamp=5, stalled_seconds=1, report=analyse([])),
    ],
    ids=lambda event: event.name,
)
def test_what_counts_as_going_wrong(tmp_path: Path, event: Event) -> None:
    learner = Learner(str(tmp_path / "learned.json"))
    learner(WorkerExited(timestamp=4, worker=WORKER, exit_code=0))
    learner(event)
    assert list(learner._learning._wrong) == [5]


def test_the_next_run_goes_on_with_it(tmp_path: Path) -> None:
    path = tmp_path / "learned.json"
    for uses, longest in ((10, 3.0), (15, 2.0)):
        statistics = Statistics()
        learner = Learner(str(path))
        learner.start(statistics)
        for _ in range(uses):
            statistics.scope("step").took(longest, first=False, traceparent=None)
        learner.stop()
        learner.stop()
    assert json.loads(path.read_text()) == {
        "version": 1,
        "scopes": {"step": {"uses": 25, "longest_seconds": 3.0}},
    }
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["learned.json"]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"scopes": {"a": {"uses": 1, "longest_seconds": Infinity}, "b": 3}}']
)
def test_a_file_that_is_none_is_begun_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "learned.json"
    path.write_text(text)
    assert Learner(str(path))._learning.known == {}


def test_each_command_has_a_file_of_its_own(tmp_path: Path) -> None:
    first = learned_path(tmp_path, ["train", "--lr", "1"])
    assert first == learned_path(tmp_path, ["train", "--lr", "1"])
    assert first != learned_path(tmp_path, ["train", "--lr", "2"])


@pytest.mark.parametrize(("is_one_of_many", "left"), [(True, 100), (False, 121)])
def test_of_many_files_the_newest_are_kept(tmp_path: Path, is_one_of_many: bool, left: int) -> None:
    for number in range(120):
        path = tmp_path / f"{number}.json"
        path.touch()
        os.utime(path, (number, number))
    learner = Learner(str(tmp_path / "new.json"), is_one_of_many=is_one_of_many)
    statistics = Statistics()
    learner.start(statistics)
    statistics.scope("step").took(1.0, first=False, traceparent=None)
    learner.stop()
    found = {path.name for path in tmp_path.iterdir()}
    assert len(found) == left
    assert {"new.json", "119.json"} <= found


SCRIPT = """
import timers
for _ in range(30):
    with timers.expires(after=timers.LEARNED, scope="step"):
        pass
print(timers.expires(after=timers.LEARNED, scope="step")._after)
"""


@pytest.mark.process
def test_a_restart_knows_the_deadlines_of_the_run_before(tmp_path: Path) -> None:
    cli = Cli(tmp_path)

    def run(*options: Any) -> str:
        done = cli.run("run", "--http", "off", *options, "--", sys.executable, "-c", SCRIPT)
        return done.stdout.strip()

    assert run() == "1800.0"
    assert run() == "60.0"
    assert run("--learned", "off") == "1800.0"
    assert run("--learned", tmp_path / "elsewhere") == "1800.0"
    assert run("--learned", tmp_path / "elsewhere") == "60.0"
