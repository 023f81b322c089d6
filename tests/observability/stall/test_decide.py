"""When a job is examined and when it is left alone, with time made up: no process is started."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from observability.explain.rates import Counts
from observability.stall._decide import Step, Watching, period_of
from observability.stall._judge import Finding
from observability.stall._look import LongCall, Look

if TYPE_CHECKING:
    from collections.abc import Callable

AFTER = 300.0
PERIOD = period_of(AFTER)
HOUR = 3600.0


@dataclass
class Job:
    """Processes whose counts a test moves on, watched over made-up time."""

    finding: Finding = Finding.IDLE
    """What samples would show."""
    at: float = 1000.0
    cpu: dict[int, float] = field(default_factory=lambda: {1: 0.0, 2: 0.0})
    switches: dict[int, int] = field(default_factory=lambda: {1: 0, 2: 0})
    io: dict[int, int] = field(default_factory=lambda: {1: 0, 2: 0})
    blocks: int = 0
    calls: dict[int, LongCall] = field(default_factory=dict)
    woken_by_samples: int = 0
    examined: list[float] = field(default_factory=list)
    stalls: list[float] = field(default_factory=list)
    moved_again: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watching = Watching(AFTER)

    def look(self) -> Look:
        counts = {
            (pid, 7): Counts(self.at, 7, self.cpu[pid], self.switches[pid], self.io[pid])
            for pid in self.cpu
        }
        calls = {((pid, 7), pid): call for pid, call in self.calls.items()}
        return Look(self.at, counts, frozenset(counts), self.blocks, calls)

    def run(self, seconds: float, each: Callable[[Job], None] = lambda _: None) -> None:
        """Look every period for that long; before each look ``each`` is called."""
        end = self.at + seconds
        while self.at < end:
            self.at += PERIOD
            each(self)
            was_stalled = self.watching.stalled
            step = self.watching.look(self.look())
            if step is Step.EXAMINE:
                self.examined.append(self.at)
                self.wake(self.woken_by_samples)
                step = self.watching.examined(self.at, self.finding)
            if self.watching.stalled and not was_stalled:
                self.stalls.append(self.at)
            if step is Step.MOVES_AGAIN:
                self.moved_again.append(self.at)

    def wake(self, times: int) -> None:
        for pid, call in self.calls.items():
            self.calls[pid] = call._replace(switches=call.switches + times)


def reads_data(job: Job) -> None:
    job.io[1] += 1_000_000


def trains(job: Job) -> None:
    """Computes, and waits for the others in each step."""
    job.cpu[1] += 0.9 * PERIOD
    job.switches[1] += int(10 * PERIOD)


def compiles(job: Job) -> None:
    job.cpu[1] += PERIOD


def chatters(job: Job) -> None:
    """A log line, and a library that keeps its connection alive."""
    job.io[1] += 200
    job.cpu[1] += 0.005 * PERIOD
    job.switches[1] += int(5 * PERIOD)


def test_a_job_that_stands_still_is_reported_once_and_that_it_moves_again() -> None:
    job = Job(finding=Finding.STUCK)
    job.run(60, reads_data)
    began = job.at
    job.run(2 * HOUR, chatters)
    assert job.stalls == [began + AFTER]
    assert job.examined == job.stalls
    assert job.moved_again == []
    job.run(60, reads_data)
    assert job.moved_again == [began + 2 * HOUR + PERIOD]
    job.run(HOUR, chatters)
    assert len(job.stalls) == 2


def waits_at_the_store(job: Job) -> None:
    """Has torch's store, and asks it a hundred times a second whether the others have come."""
    job.io[1] += int(4_550 * PERIOD)
    job.cpu[1] += 0.015 * PERIOD
    job.switches[1] += int(280 * PERIOD)


def test_who_asks_for_the_others_again_and_again_does_not_move() -> None:
    job = Job(finding=Finding.STUCK)
    job.run(60, reads_data)
    began = job.at
    job.run(HOUR, waits_at_the_store)
    assert job.stalls == [began + AFTER]


def test_a_tick_of_the_clock_is_no_work() -> None:
    """A short bound has it look so often that one tick between two looks is a large share."""
    watching = Watching(3.0)
    steps = []
    for number in range(20):
        at = number * period_of(3.0)
        counts = {(1, 7): Counts(at, 7, 0.01 * (number // 2), 50 * number, 0)}
        steps.append(watching.look(Look(at, counts, frozenset(counts))))
    assert Step.EXAMINE in steps


def test_work_is_never_examined() -> None:
    for work in (reads_data, trains):
        job = Job(finding=Finding.STUCK)
        job.run(HOUR, work)
        assert job.examined == []


def test_blocks_and_new_processes_are_progress() -> None:
    def enters_blocks(job: Job) -> None:
        job.blocks += 1

    def restarts(job: Job) -> None:
        number = max(job.cpu) + 1
        job.cpu = {1: 0.0, number: 0.0}
        job.io[number] = job.switches[number] = 0

    for work in (enters_blocks, restarts):
        job = Job(finding=Finding.STUCK)
        job.run(HOUR, work)
        assert job.examined == []


def test_one_write_that_gets_on_is_progress() -> None:
    def saves(job: Job) -> None:
        """To a disk that takes a piece every two seconds."""
        job.wake(int(PERIOD / 2))

    job = Job(finding=Finding.STUCK, calls={1: LongCall("1 0x7 0x7f00 0x20000000", 0)})
    job.run(HOUR, saves)
    assert job.examined == []
    began = job.at
    job.run(HOUR, lambda _: None)
    assert job.stalls == [began + AFTER]


def test_one_write_that_only_samples_wake_is_stuck_once_and_for_all() -> None:
    calls = {1: LongCall("1 0x7 0x7f00 0x20000000", 0)}
    job = Job(finding=Finding.STUCK, calls=calls, woken_by_samples=100)
    job.run(6 * HOUR, chatters)
    assert len(job.stalls) == 1
    assert job.moved_again == []


def test_another_call_each_time_is_no_progress_in_one() -> None:
    def asks_again(job: Job) -> None:
        job.calls[1] = LongCall(f"1 0x7 {job.at}", 0)
        job.wake(int(job.at))

    job = Job(finding=Finding.STUCK)
    job.run(HOUR, asks_again)
    assert len(job.stalls) == 1


def test_who_only_computes_is_examined_ever_less_often() -> None:
    job = Job(finding=Finding.MOVES)
    job.run(6 * HOUR, compiles)
    assert job.stalls == []
    assert 0 < len(job.examined) <= 12
    gaps = [b - a for a, b in zip(job.examined, job.examined[1:], strict=False)]
    assert gaps == sorted(gaps)


def test_a_pool_that_is_idle_for_hours_is_no_stall() -> None:
    job = Job(finding=Finding.IDLE)
    job.run(6 * HOUR)
    assert job.stalls == []
    assert 0 < len(job.examined) <= 14


def test_what_falls_silent_after_hours_of_computing_is_examined_in_time() -> None:
    job = Job(finding=Finding.MOVES)
    job.run(6 * HOUR, compiles)
    job.finding = Finding.STUCK
    began = job.at
    job.run(HOUR)
    assert job.stalls == [began + AFTER]


def test_a_wait_that_spins_is_found_and_its_end_too() -> None:
    job = Job(finding=Finding.STUCK)
    job.run(HOUR, compiles)
    assert len(job.stalls) == 1
    job.run(60, trains)
    assert len(job.moved_again) == 1


def test_one_that_only_computes_after_a_stall_is_seen_to_move() -> None:
    job = Job(finding=Finding.STUCK)
    job.run(HOUR)
    assert len(job.stalls) == 1
    job.finding = Finding.MOVES
    job.run(HOUR, compiles)
    assert len(job.moved_again) == 1
    assert not job.watching.stalled


def test_a_time_in_which_nobody_looked_does_not_count() -> None:
    """A paused container, a suspended machine: the job was stopped as well."""
    job = Job(finding=Finding.STUCK)
    job.run(60, reads_data)
    job.at += 10 * HOUR
    job.run(AFTER - 3 * PERIOD)
    assert job.examined == []
    job.run(4 * PERIOD)
    assert len(job.stalls) == 1


def test_an_empty_job_is_no_stall() -> None:
    job = Job(finding=Finding.STUCK, cpu={})
    job.run(HOUR)
    assert job.examined == []


@given(
    st.lists(st.sampled_from([reads_data, trains, compiles, chatters]), min_size=1, max_size=60),
    st.sampled_from(Finding),
)
def test_nothing_is_examined_while_there_was_progress_within_the_bound(
    work: list[Callable[[Job], None]], finding: Finding
) -> None:
    job = Job(finding=finding)
    progress = job.at + PERIOD  # the first look
    for each in work:
        before = len(job.examined)
        job.run(PERIOD, each)
        if each in (reads_data, trains):
            progress = job.at
        if len(job.examined) > before:
            assert job.at - progress >= AFTER
    assert len(job.moved_again) <= len(job.stalls)


@given(st.floats(0.001, 1e6))
def test_looks_are_often_enough_and_not_too_often(after: float) -> None:
    assert 0.05 <= period_of(after) <= 30
    assert period_of(after) <= max(0.05, after / 10)
