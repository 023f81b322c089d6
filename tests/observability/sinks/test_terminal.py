"""What a person at a terminal sees: five lines for a reap, one for what else matters."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from observability.events import HangReported, Notice
from observability.fields import to_fields
from observability.hang.types import Confidence, Group, HangReport, Suspect, Verdict
from observability.sinks._terminal import Screen
from observability.story import Stories
from support.samples import TIMER, WORKER, all_events, expired, stack_dumped
from timers.events import Event, Outcome, ReapFailed, WorkerExited, WorkerInfo, WorkerKilled

SUSPECT = Suspect(
    pid=4711, host="gpu-3", rank=3, frame="/job/data.py:22 fetch_shard", why="is stuck: it sleeps",
    holds_up="has not joined all_reduce #26",
)  # fmt: skip
OTHERS = Group(
    what="waiting in all_reduce", frame="/job/train.py:50 step", frames=(), ranks=(0, 1, 2),
    workers=("rank 0", "rank 1", "rank 2"),
)  # fmt: skip
STUCK = Group(
    what="sleeping", frame=SUSPECT.frame, frames=(), workers=("rank 3",), ranks=(3,), suspected=True
)
REPORT = HangReport(
    verdict=Verdict.ONE_SUSPECT, confidence=Confidence.HIGH, reason="", sentence="Rank 3 is stuck.",
    suspects=(SUSPECT,), groups=(OTHERS, STUCK),
)  # fmt: skip


def killed(worker: WorkerInfo = WORKER) -> WorkerKilled:
    return WorkerKilled(
        timestamp=1.0, worker=worker, timer=TIMER, elapsed_seconds=60.5, signal=9,
        outcome=Outcome.KILLED,
    )  # fmt: skip


def reported(report: HangReport) -> HangReported:
    return HangReported(timestamp=expired().timestamp, report=report)


class Watching:
    """A screen, and the pipeline's part before it."""

    def __init__(self, *, width: int = 80, colors: bool = False, chatty: bool = False) -> None:
        self.stories = Stories()
        self.stories.where = "http://127.0.0.1:9464/"
        self._screen = Screen(colors=colors, chatty=chatty)
        self._width = width

    def see(self, *events: Event, wanted: bool = False) -> str:
        return "".join(
            self._screen.text(each, to_fields(each), self._width, wanted=wanted)
            for each in map(self.stories.completed, events)
        )


def test_a_reap_is_five_lines() -> None:
    seen = Watching().see(expired(), reported(REPORT), stack_dumped(), killed())
    assert seen.splitlines() == [
        "timers: Rank 3 (pid 4711 on gpu-3) is stuck: it sleeps and has not joined all...",
        "  at      /job/data.py:22 fetch_shard",
        "  while   3 ranks are waiting in all_reduce at /job/train.py:50 step",
        "  done    rank 3 killed with SIGKILL, 0.5 s after its deadline of 60 s",
        "  more    http://127.0.0.1:9464/",
    ]


def test_another_worker_of_the_same_hang_is_one_line() -> None:
    other = replace(WORKER, pid=4712, rank=0)
    watching = Watching()
    watching.see(expired(), replace(expired(), worker=other), reported(REPORT), killed())
    assert watching.see(killed(other)) == (
        "timers: rank 0 killed with SIGKILL, 0.5 s after its deadline of 60 s\n"
    )
    assert len(watching.see(expired(), reported(replace(REPORT)), killed()).splitlines()) == 5


def test_who_is_not_accused_is_not_called_stuck() -> None:
    slow = replace(
        REPORT, verdict=Verdict.SLOW, suspects=(), groups=(OTHERS,),
        lagging=(replace(SUSPECT, why="still moves", holds_up=""),),
    )  # fmt: skip
    said = Watching().see(expired(), reported(slow), killed()).splitlines()
    assert said[0] == "timers: Rank 3 (pid 4711 on gpu-3) still moves: slow rather than stuck"
    assert said[1] == "  at      /job/data.py:22 fetch_shard"
    sentence = "No rank differs: all 3 ranks are waiting in all_reduce."
    nobody = replace(slow, verdict=Verdict.COMMON_WAIT, lagging=(), sentence=sentence)
    said = Watching().see(expired(), reported(nobody), stack_dumped(), killed()).splitlines()
    assert said[0] == f"timers: {sentence}"
    assert said[1] == "  at      /home/user/train.py:42 load_batch"


def test_without_a_report_or_a_stack_that_is_said() -> None:
    said = Watching().see(expired(), killed()).splitlines()
    assert said[:3] == [
        "timers: rank 3 overran all_reduce",
        "  at      unknown: no stack could be taken",
        "  while   the other workers were not looked at (--no-hang-report)",
    ]
    alone = replace(REPORT, groups=(STUCK,))
    said = Watching().see(expired(), reported(alone), killed()).splitlines()
    assert said[2] == "  while   no other worker of the run was seen"
    alone = replace(REPORT, suspects=(), groups=(replace(STUCK, suspected=False),), workers=1)
    said = Watching().see(expired(), reported(alone), killed()).splitlines()
    assert said[2] == "  while   no other worker of the run was seen"


def test_a_worker_that_is_only_observed_has_its_story_too() -> None:
    observed = replace(stack_dumped(), timer=replace(TIMER, signal=0))
    begun = replace(expired(), timer=replace(expired().timer, signal=0))
    said = Watching().see(begun, reported(REPORT), observed).splitlines()
    assert said[0].endswith("past its deadline of 60 s; it is only observed.")
    assert said[1].startswith("timers: Rank 3 (pid 4711 on gpu-3) is stuck")
    assert said[4] == "  done    rank 3 is only observed, 60.2 s into all_reduce"


def test_attempts_that_fail_are_one_story_and_then_one_line_each() -> None:
    failed = ReapFailed(
        timestamp=1.0, worker=WORKER, timer=TIMER, elapsed_seconds=60.5, signal=9,
        outcome=Outcome.STILL_ALIVE, attempt=1, retry_in_seconds=1.0,
    )  # fmt: skip
    watching = Watching()
    first = watching.see(expired(), stack_dumped(), failed).splitlines()
    assert len(first) == 5
    assert first[3].endswith("still alive after SIGKILL, 0.5 s after its deadline of 60 s;...")
    assert len(watching.see(replace(failed, attempt=2)).splitlines()) == 1


def test_everyday_life_is_not_shown_unless_asked_for() -> None:
    shown = [each.name for each in all_events() if Watching().see(each)]
    assert shown == [
        "timer acquired", "timer released", "kill worker process", "reap failed", "worker exited",
        "request rejected", "timer warning",
    ]  # fmt: skip
    assert Watching().see(WorkerExited(timestamp=1.0, worker=WORKER)) == ""
    assert Watching().see(expired(), wanted=True) != ""
    assert Watching(chatty=True).see(expired()) != ""


def test_a_notice_is_said_as_it_is() -> None:
    assert Watching().see(Notice(timestamp=1.0, message="it is so")) == "timers: it is so\n"


@pytest.mark.parametrize("colors", [True, False])
def test_colours_are_used_when_wanted(*, colors: bool) -> None:
    seen = Watching(colors=colors).see(expired(), reported(REPORT), killed())
    assert ("\x1b[31m" in seen) is colors
    assert ("\x1b" in seen) is colors


@settings(deadline=None, max_examples=50)
@given(text=st.text(max_size=300), width=st.integers(0, 500))
def test_whatever_it_is_called_no_line_is_too_long_or_moves_the_cursor(
    text: str, width: int
) -> None:
    suspect = replace(SUSPECT, frame=text, why=text, host=text)
    report = replace(REPORT, suspects=(suspect,), groups=(replace(OTHERS, frame=text, what=text),))
    watching = Watching(width=width)
    watching.stories.where = text
    seen = watching.see(expired(text), reported(report), killed())
    assert len(seen.splitlines()) == 5
    assert all(len(line) <= min(max(width, 40), 160) for line in seen.splitlines())
    assert "\x1b" not in seen
