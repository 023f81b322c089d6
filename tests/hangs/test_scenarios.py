"""Real jobs with real hangs: the right rank, the right line, and nobody else's name."""

from __future__ import annotations

import linecache
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from hangs.jobs import job
from observability.hang.report import analyse
from observability.hang.text import render
from observability.hang.types import Confidence, Verdict
from observability.samples.types import Pace
from support.processes import VICTIMS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from observability.hang.types import HangReport
    from observability.samples.types import WorkerView

FILE = str(VICTIMS / "hang_job.py")


@dataclass(frozen=True)
class Scenario:
    """One odd rank (or two) in a job, and what is to be said of it."""

    cause: str
    line: str = ""
    """The source of the line that matters; empty for a rank without a stack."""
    pace: Pace = Pace.STUCK
    child: bool = False
    also: str = ""
    size: int = 4
    meeting: str = "barrier"
    odd: tuple[int, ...] = (2,)

    def __str__(self) -> str:
        return f"{self.cause}-{self.meeting}-{self.size}"


CULPRITS = [
    Scenario("sleeping", "time.sleep(1000)"),
    Scenario("crossed_threads", "with second:", also="with first:"),
    Scenario("joining_crossed_threads", "with theirs:", also="thread.join()"),
    Scenario("locked_twice", "lock.acquire()"),
    Scenario("holding_gil", "ctypes.PyDLL(None).sleep(1000)"),
    Scenario("matching", 're.match(r"(a+)+$", "a" * 60 + "b")', pace=Pace.SPINNING),
    Scenario("reading_socket", "ours.recv(1)"),
    Scenario("reading_tcp", 'ours.makefile("rb").readline()'),
    Scenario("queue_without_producer", "items.get()"),
    Scenario("queue_of_dead_process", "items.get()"),
    Scenario("loader_stuck", "time.sleep(1000)", child=True, also="results.get()"),
    Scenario("stopped", "os.kill(os.getpid(), signal.SIGSTOP)"),
    Scenario("killed", pace=Pace.UNKNOWN),
    Scenario("exiting", pace=Pace.UNKNOWN),
    Scenario("awaiting", "asyncio.run(main())"),
    Scenario(
        "running_command",
        'subprocess.run(["sleep", "1000"], check=True, preexec_fn=die_with_parent)',
        child=True,
    ),
    # The line is that of the child, which shares the memory of its parent.
    Scenario("uninterruptible", "libc.pause()"),
    Scenario("sleeping", "time.sleep(1000)", size=2, odd=(0,)),
    Scenario("crossed_threads", "with second:", size=2, odd=(1,)),
    Scenario("stopped", "os.kill(os.getpid(), signal.SIGSTOP)", size=8, odd=(7,)),
    Scenario("reading_socket", "ours.recv(1)", size=8, odd=(0,)),
    # Where ranks meet by other means than a known barrier, there is less to go by.
    Scenario("sleeping", "time.sleep(1000)", meeting="exchange"),
    Scenario("sleeping", "time.sleep(1000)", meeting="all_reduce", size=2, odd=(1,)),
    Scenario("matching", 're.match(r"(a+)+$", "a" * 60 + "b")', pace=Pace.SPINNING, meeting="flag"),
    Scenario("exiting", pace=Pace.UNKNOWN, meeting="exchange", size=3),
    Scenario("reading_socket", "ours.recv(1)", meeting="exchange", size=8, odd=(5,)),
]  # fmt: skip


@pytest.mark.parametrize("scenario", CULPRITS, ids=str)
def test_names_the_rank_and_the_line(scenario: Scenario) -> None:
    with job(scenario.size, scenario.meeting, scenario.cause, scenario.odd) as running:
        views = running.views()
    report = analyse(views)
    assert report.verdict is Verdict.ONE_SUSPECT, render(report)
    [suspect] = report.suspects
    [odd] = scenario.odd
    assert (suspect.rank, suspect.pid) == (odd, running.pids[odd]), render(report)
    assert suspect.pace is (Pace.UNKNOWN if scenario.child else scenario.pace), render(report)
    assert (suspect.child_pid is not None) == scenario.child, render(report)
    assert f"rank {odd} (pid {suspect.pid} on node1)" in report.sentence.lower()
    if scenario.line:
        assert suspect.frame is not None, render(report)
        assert source(suspect.frame) == scenario.line, render(report)
        assert suspect.frame in report.sentence
    if scenario.also:
        assert scenario.also in {source(line) for line in suspect.also}, render(report)
    for fewer in variations(views, scenario.odd):
        accused = {each.pid for each in analyse(fewer).suspects}
        assert accused <= {running.pids[odd]}, render(analyse(fewer))


@pytest.mark.parametrize("size", [2, 4])
def test_a_loop_without_an_end_spins(size: int) -> None:
    with job(size, "barrier", "counting", [1]) as running:
        report = analyse(running.views())
    [suspect] = report.suspects
    assert suspect.rank == 1
    assert suspect.pace is Pace.SPINNING
    assert suspect.frame is not None
    # The interpreter shows either line of the loop.
    assert source(suspect.frame) in ("number += 1", "while True:")


def test_two_ranks_that_took_two_locks_in_opposite_order() -> None:
    with job(4, "barrier", "crossed_ranks", [1, 2]) as running:
        views = running.views()
    report = analyse(views)
    assert report.verdict is Verdict.SEVERAL_SUSPECTS, render(report)
    assert [suspect.rank for suspect in report.suspects] == [1, 2]
    assert {source(suspect.frame or "") for suspect in report.suspects} == {"with second:"}
    for fewer in variations(views, (1, 2)):
        accused = {suspect.pid for suspect in analyse(fewer).suspects}
        assert accused <= {running.pids[1], running.pids[2]}


@pytest.mark.parametrize("cause", ["slowly", "busily", "napping"])
@pytest.mark.parametrize("meeting", ["barrier", "exchange"])
def test_a_rank_that_moves_is_slow_and_not_accused(cause: str, meeting: str) -> None:
    with job(4, meeting, cause, [2]) as running:
        views = running.views()
    report = analyse(views)
    assert report.suspects == (), render(report)
    assert report.verdict is Verdict.SLOW, render(report)
    assert [each.rank for each in report.lagging] == [2]
    assert "rank 2" in report.sentence.lower()
    assert "deadline" in report.sentence


@pytest.mark.parametrize("size", [2, 4, 8])
def test_when_every_rank_waits_for_storage_none_is_accused(size: int) -> None:
    with job(size, "barrier", "reading_storage", "all") as running:
        views = running.views()
    report = analyse(views)
    assert report.verdict is Verdict.COMMON_WAIT, render(report)
    assert report.suspects == ()
    assert "no rank differs" in report.sentence.lower()
    assert source(report.groups[0].frame or "") == "file.read(1)"
    assert report.groups[0].ranks == tuple(range(size))
    for fewer in variations(views, ()):
        assert analyse(fewer).suspects == ()


@pytest.mark.parametrize(
    ("size", "meeting", "cause"),
    [
        (2, "exchange", "reading_socket"),
        (2, "exchange", "queue_without_producer"),
        (2, "exchange", "crossed_ranks"),
        (3, "exchange", "awaiting"),
        (2, "barrier", "crossed_ranks"),
    ],
)
def test_nobody_is_accused_when_the_evidence_is_even(size: int, meeting: str, cause: str) -> None:
    odd = [0, 1] if cause == "crossed_ranks" else [1]
    with job(size, meeting, cause, odd) as running:
        views = running.views()
    report = analyse(views)
    assert report.suspects == (), render(report)
    assert report.verdict in (Verdict.INCONCLUSIVE, Verdict.COMMON_WAIT)
    assert len(report.groups) >= 1
    for fewer in variations(views, ()):
        assert analyse(fewer).suspects == (), render(analyse(fewer))


def test_sixty_four_ranks_fit_on_a_screen() -> None:
    with job(64, "barrier", "sleeping", [41]) as running:
        report = analyse(running.views(rounds=2))
    [suspect] = report.suspects
    assert suspect.rank == 41
    assert source(suspect.frame or "") == "time.sleep(1000)"
    assert report.workers == 64
    assert {(group.size, group.suspected) for group in report.groups} == {(63, False), (1, True)}
    text = render(report, width=120)
    assert len(text.splitlines()) <= 24
    assert "ranks 0-40, 42-63" in text


def test_one_look_is_enough_for_a_suspicion_but_not_for_certainty() -> None:
    with job(4, "barrier", "sleeping", [2]) as running:
        once, often = (analyse(running.views(rounds=rounds)) for rounds in (1, 3))
    assert [suspect.rank for suspect in once.suspects] == [2]
    assert [suspect.rank for suspect in often.suspects] == [2]
    assert (once.confidence, often.confidence) == (Confidence.MEDIUM, Confidence.HIGH)


def source(frame: str) -> str:
    """The source of the line that ``file:line function`` names."""
    place, _, _ = frame.partition(" ")
    file, _, line = place.rpartition(":")
    assert file == FILE
    return linecache.getline(file, int(line)).strip()


def variations(views: Sequence[WorkerView], odd: Sequence[int]) -> Iterator[list[WorkerView]]:
    """The same hang as a server that knows less would see it."""
    yield [replace(view, samples=view.samples[-1:]) for view in views]
    yield [replace(view, samples=view.samples[::2]) for view in views]
    yield [replace(view, descendants=()) for view in views]
    yield [
        replace(view, scope_id=None, thread=None, expired=False)
        if view.worker.rank in odd
        else view
        for view in views
    ]
    yield [
        replace(view, scope_id="load", expired=False) if view.worker.rank in odd else view
        for view in views
    ]
    yield [replace(view, worker=replace(view.worker, rank=None)) for view in views]
    # Those that wait are not all known: they have no timers, or are on other hosts.
    waiting = [view for view in views if view.worker.rank not in odd]
    if len(views) > 2:
        yield [view for view in views if view not in waiting[1:]]
    yield waiting or list(views)


def test_reports_are_the_same_for_the_same_input_in_any_order() -> None:
    with job(4, "barrier", "sleeping", [1]) as running:
        views = running.views(rounds=2)
    assert analyse(views).suspects
    reports: list[HangReport] = [analyse(views), analyse(views[::-1])]
    assert reports[0] == reports[1]
