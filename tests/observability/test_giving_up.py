"""When starting a job again is no use."""

from __future__ import annotations

import os

import pytest

from observability.giving_up import GivingUp, steps_of
from observability.story import ExplainedKill, Story
from timers.events import Outcome, TimerInfo, WorkerInfo, WorkerKilled
from timers.server.statistics import Statistics

TICKS = os.sysconf("SC_CLK_TCK")


class Job:
    """A job whose attempts are ten seconds apart."""

    def __init__(self, after: int) -> None:
        self.now = 0.0
        self.steps = 0
        self.reasons: list[str] = []
        self.sink = GivingUp(
            after,
            steps=lambda: self.steps,
            give_up=self.reasons.append,
            booted=lambda moment: moment,
        )

    def attempt(self, *lines: str | None, steps: int = 0, outcome: Outcome = Outcome.KILLED) -> int:
        """Start it, have workers reaped at ``lines``; return how often it was given up so far."""
        started = int((self.now + 1) * TICKS)
        self.now += 10
        self.steps += steps
        for pid, line in enumerate(lines):
            self.now += 0.1
            kill = {
                "timestamp": self.now,
                "worker": WorkerInfo(pid=pid, start_time=started),
                "timer": TimerInfo(
                    scope_id="x", expiration_time=self.now, after_seconds=1.0, signal=9
                ),
                "elapsed_seconds": 1,
                "signal": 9,
                "outcome": outcome,
            }
            event = (
                WorkerKilled(**kill)  # type: ignore[arg-type]  # the fields of both, as they are
                if line is None
                else ExplainedKill(**kill, story=Story(frame=line))  # type: ignore[arg-type]  # as above
            )
            self.sink(event)
        return len(self.reasons)


def test_the_same_line_so_many_times_in_a_row() -> None:
    job = Job(3)
    assert [job.attempt("a:1 f") for _ in range(5)] == [0, 0, 1, 1, 1]
    (reason,) = job.reasons
    assert reason == (
        "gives up: a worker was reaped at a:1 f in each of 3 attempts in a row, without a step"
        " between: to start it again is no use"
    )


def test_a_step_between_is_progress() -> None:
    job = Job(2)
    assert [job.attempt("a:1 f", steps=1) for _ in range(4)] == [0] * 4
    assert job.attempt("a:1 f") == 1


def test_steps_before_the_first_reap_are_none_between() -> None:
    job = Job(2)
    assert job.attempt("a:1 f", steps=1000) == 0
    assert job.attempt("a:1 f") == 1


def test_another_line_begins_anew() -> None:
    job = Job(2)
    assert [job.attempt(line) for line in "abcacb"] == [0] * 6
    assert job.attempt("b") == 1


def test_several_workers_of_one_attempt_are_one() -> None:
    job = Job(2)
    assert job.attempt("a", "a", "a", "b") == 0
    assert job.attempt("c", "b") == 1


def test_a_line_that_is_not_known_is_no_line() -> None:
    job = Job(2)
    assert [job.attempt(None) for _ in range(4)] == [0] * 4
    assert [job.attempt(line) for line in ("a", None, "a")] == [0] * 3
    assert job.attempt("a") == 1


def test_who_ended_by_itself_was_not_reaped() -> None:
    job = Job(1)
    assert job.attempt("a", outcome=Outcome.ALREADY_GONE) == 0
    assert job.attempt("a") == 1


@pytest.mark.parametrize(("scope", "steps"), [("step", 2), ("batch", 0)])
def test_steps_are_blocks_of_that_scope(scope: str, steps: int) -> None:
    statistics = Statistics()
    statistics.scope(scope).count(acquires=2, releases=1)
    assert steps_of(statistics) == steps
