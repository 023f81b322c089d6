"""The less common rules of the comparison, each with the evidence for it and without."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hangs.simulated import IN_ALL_REDUCE, OUTER, looking, view
from observability.hang.report import analyse
from observability.hang.types import Confidence, HangReport, Verdict
from timers.stacks.take import Frame

if TYPE_CHECKING:
    from observability.samples.types import WorkerView

NETWORK, SLEEP, PIPE, FUTEX = "wait_woken", "hrtimer_nanosleep", "anon_pipe_read", "futex_do_wait"


def place(name: str, *, outer: tuple[Frame, ...] = OUTER) -> tuple[Frame, ...]:
    return (Frame(name, "/job/work.py", sum(name.encode())), *outer)


def rank(
    number: int,
    name: str = "",
    channel: str = NETWORK,
    *,
    samples: int = 2,
    scope: str | None = "step",
    expired: bool = True,
    state: str = "sleeping",
) -> WorkerView:
    """A rank that waits in the function ``name``; without a name in a collective."""
    frames = place(name) if name else IN_ALL_REDUCE
    seen = (
        looking(1000 + number, frames, state=state, channel=channel, at=9.0 * at, cpu=1.0)
        for at in range(samples)
    )
    return view(number, *seen, scope=scope, expired=expired)


def moving(number: int, *, expired: bool = False) -> WorkerView:
    samples = (
        looking(1000 + number, place(name), channel=NETWORK, at=float(at), cpu=1.0)
        for at, name in enumerate(("read", "parse", "read"))
    )
    return view(number, *samples, expired=expired)


def accused(*views: WorkerView) -> list[int | None]:
    return [suspect.rank for suspect in analyse(views).suspects]


def verdict(*views: WorkerView) -> Verdict:
    report: HangReport = analyse(views)
    assert report.suspects == ()
    return report.verdict


def test_most_ranks_in_an_uninterruptible_wait_have_a_device_in_common() -> None:
    deep = [rank(number, "save", state="uninterruptible") for number in range(3)]
    assert verdict(*deep, rank(3)) is Verdict.COMMON_WAIT
    assert accused(deep[0], *(rank(number) for number in range(1, 4))) == [0]


def test_an_uninterruptible_rank_seen_once_is_suspected_with_less_confidence() -> None:
    report = analyse([rank(0), rank(1, "save", state="uninterruptible", samples=1)])
    assert [suspect.rank for suspect in report.suspects] == [1]
    assert report.confidence is Confidence.MEDIUM


@pytest.mark.parametrize("name", ["", "exchange"])
def test_a_rank_that_finished_early_is_missed_by_those_that_wait(name: str) -> None:
    done = view(2, gone="has exited")
    assert accused(rank(0, name), rank(1, name), done) == [2]
    # One that waits for nothing of others does not miss it.
    assert accused(rank(0, name), rank(1, "pause", SLEEP), done) in ([], [1])
    # Without ranks it may have been a helper that was done.
    unnamed = replace(done, worker=replace(done.worker, rank=None))
    assert accused(rank(0, "exchange"), rank(1, "exchange"), unnamed) == []


@pytest.mark.parametrize("channel", [SLEEP, "d_alloc_parallel"])
def test_who_is_met_between_two_looks_is_in_the_same_place_as_those_who_look(channel: str) -> None:
    others = [rank(number, "meet", SLEEP) for number in (0, 1)]
    assert accused(*others, rank(3, "meet", channel)) == []
    unknown = [rank(number, "meet", "d_alloc_parallel") for number in (0, 1)]
    assert accused(*unknown, rank(3, "meet", channel)) == []
    assert accused(*others, rank(2, "meet", SLEEP), rank(3, "parse", channel)) == [3]


def test_a_worker_alone_that_moves_or_computes_is_not_accused() -> None:
    assert verdict(moving(0)) is Verdict.SLOW
    running = looking(1000, place("work"), state="running", channel=None, active=True)
    assert verdict(view(0, running)) is Verdict.INCONCLUSIVE
    assert verdict(rank(0, "read")) is Verdict.COMMON_WAIT
    assert accused(rank(0, "pause", SLEEP)) == [0]


def test_a_scope_named_like_a_collective_speaks_against_those_who_wait_for_nobody() -> None:
    in_scope = rank(0, "exchange", scope="all_reduce")
    assert accused(in_scope, rank(1, "pause", SLEEP, scope=None, expired=False)) == [1]
    assert accused(in_scope, rank(1, "load", scope=None, expired=False)) == []


def test_a_collective_of_the_job_next_to_one_of_a_library_is_a_difference_not_a_fault() -> None:
    own = rank(1, "ring_all_reduce")
    assert verdict(rank(0), own) is Verdict.DIFFERENT_COLLECTIVES


def test_when_more_are_outside_of_the_collective_than_inside() -> None:
    same = [rank(number, "pause", SLEEP) for number in (1, 2)]
    assert verdict(rank(0), *same) is Verdict.COMMON_WAIT
    assert verdict(rank(0), moving(1), moving(2)) is Verdict.SLOW
    crossed = [rank(1, "first", FUTEX), rank(2, "second", FUTEX)]
    assert accused(rank(0), *crossed) == [1, 2]
    assert accused(rank(0), *(replace(each, samples=each.samples[:1]) for each in crossed)) == []
    # The one may be waiting for data of the other.
    assert accused(rank(0), rank(1, "pause", SLEEP), rank(2, "receive")) == [1]


def test_ranks_that_pass_through_collectives_are_slow_together() -> None:
    frames = [
        (*IN_ALL_REDUCE[:2], Frame("layer", "/job/model.py", line), *OUTER) for line in (10, 20, 30)
    ]
    views = [
        view(
            number,
            *(looking(1000 + number, each, at=float(at)) for at, each in enumerate(frames)),
        )
        for number in range(4)
    ]
    assert verdict(*views) is Verdict.SLOW


def test_all_in_one_place_and_all_moving() -> None:
    assert verdict(*(moving(number) for number in range(4))) is Verdict.SLOW


def test_each_waiting_for_its_own_child_says_nothing_about_one_that_does_not() -> None:
    waiting = [rank(number, "run_tool", "do_wait") for number in range(3)]
    assert verdict(*waiting, rank(3, "pause", SLEEP)) is Verdict.COMMON_WAIT


def test_an_exception_among_those_that_wait_alike_is_suspected_with_little_confidence() -> None:
    alike = [rank(number, "exchange") for number in (0, 1, 2)]
    report = analyse([*alike, rank(3, "read", PIPE)])
    assert [suspect.rank for suspect in report.suspects] == [3]
    assert report.confidence is Confidence.LOW
    # The first rank usually collects from the others, and waits elsewhere than they do.
    collects = [rank(0, "gather", PIPE), *(rank(number, "exchange") for number in (1, 2, 3))]
    assert verdict(*collects) is Verdict.INCONCLUSIVE
    assert accused(*collects, rank(4, "pause", SLEEP)) == [4]
    assert accused(*collects, moving(4)) == []


def test_two_in_one_scope_of_which_one_waits_for_nothing_of_the_other() -> None:
    assert accused(rank(0, "exchange"), rank(1, "pause", SLEEP)) == [1]
    other_scope = rank(1, "pause", SLEEP, scope="load")
    assert accused(rank(0, "exchange"), other_scope) == []
    early = rank(1, "pause", SLEEP, samples=1, expired=False)
    assert accused(rank(0, "exchange"), early) == []
    assert accused(moving(0, expired=True), rank(1, "pause", SLEEP)) == []


def test_the_only_one_that_expired_while_the_others_work_on() -> None:
    others = [moving(number) for number in (1, 2)]
    assert accused(rank(0, "exchange"), *others) == [0]
    assert accused(rank(0, "exchange", samples=1), *others) == []
    assert accused(moving(0, expired=True), *others) == []
    assert accused(rank(0), *others) == []
