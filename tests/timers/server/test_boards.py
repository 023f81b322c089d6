"""Boards as the engine keeps them: cleared, moved, shared out, and counted anew after an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.board_worker import BoardWorker, use_clock
from support.children import waiting
from support.rig import Rig
from timers import ReapPolicy, expires
from timers.events import TimerExpired, WorkerExited, WorkerKilled
from timers.transport.board import Layout
from timers.transport.wire import BOARD, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from timers.server.statistics import ScopeStatistics


class Bench:
    """A worker's board, and the engine that it is handed to."""

    def __init__(self, pid: int, *, reaps: bool = True, policy: ReapPolicy | None = None) -> None:
        self.pid = pid
        self.rig = Rig(reap=lambda *_: reaps, wants_requests=False, policy=policy)
        self.workers: list[BoardWorker] = []

    def worker(self, layout: Layout | None = None) -> BoardWorker:
        made = BoardWorker(lambda: self.rig.watchdog._wake_board(self.pid), layout)
        self.workers.append(made)
        self.hand_over(made)
        return made

    def hand_over(self, worker: BoardWorker) -> None:
        accept = self.rig.watchdog._accept_board
        assert accept(self.pid, None, BOARD, worker.descriptor()) is None

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and the server look again a moment later."""
        self.rig.pass_time(seconds)
        self.rig.pass_time(0.001)

    def scope(self, name: str = "x") -> ScopeStatistics:
        statistics = self.rig.watchdog.statistics
        statistics.collect()
        return statistics.scopes[name]

    def counts(self, name: str = "x") -> tuple[int, int, int, int, int]:
        """Acquires, releases, expirations, active and overdue ones."""
        found = self.scope(name)
        return found.acquires, found.releases, found.expirations, found.active, found.overdue


@pytest.fixture
def pid() -> Iterator[int]:
    with waiting() as pid:
        yield pid


@pytest.fixture
def make(pid: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        bench = Bench(pid, **options)
        use_clock(monkeypatch, bench.rig.clock)
        made.append(bench)
        return bench

    yield make
    for bench in made:
        for worker in bench.workers:
            worker.close()
        bench.rig.settle()
        bench.rig.close()


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    return make()


def test_a_block_that_overruns_and_one_that_does_not(bench: Bench, pid: int) -> None:
    worker = bench.worker()
    with expires(10, "x", worker):
        bench.pass_time(9)
    block = expires(10, "x", worker)
    block.__enter__()
    bench.pass_time(9)
    assert bench.rig.reaped == []
    bench.pass_time(1)
    assert bench.rig.reaped == [(pid, 9)]


# -- cleared --------------------------------------------------------------------------------------


def test_what_is_cleared_is_over_and_what_follows_is_watched(bench: Bench, pid: int) -> None:
    worker = bench.worker()
    block = expires(10, "x", worker)
    block.__enter__()
    assert bench.counts() == (1, 0, 0, 1, 0)
    bench.rig.watchdog.clear([pid])
    assert bench.counts() == (1, 0, 0, 0, 0)
    assert bench.rig.watchdog.state.running() == []
    bench.pass_time(100)
    assert bench.rig.reaped == []
    block.__exit__(None, None, None)
    assert bench.counts() == (1, 1, 0, 0, 0)
    with expires(10, "x", worker):
        assert bench.counts() == (2, 1, 0, 1, 0)
        bench.pass_time(11)
    assert bench.rig.reaped == [(pid, 9)]
    assert bench.counts() == (2, 2, 1, 0, 0)


def test_what_is_cleared_when_overdue_is_not_overdue_any_more(bench: Bench, pid: int) -> None:
    worker = bench.worker()
    with expires(10, "x", worker):
        bench.pass_time(11)
        bench.rig.watchdog.clear([pid])
        assert bench.counts() == (1, 0, 1, 0, 0)
    assert bench.counts() == (1, 1, 1, 0, 0)


def test_what_was_not_counted_yet_may_be_cleared(bench: Bench, pid: int) -> None:
    worker = bench.worker()
    with expires(10, "x", worker):
        bench.rig.watchdog.clear([pid])
        assert bench.counts()[3] == 0
    assert bench.counts() == (1, 1, 0, 0, 0)


def test_a_worker_that_its_reap_lets_live_is_watched_on(bench: Bench, pid: int) -> None:
    worker = bench.worker()
    with expires(10, "x", worker):
        bench.pass_time(11)
        assert bench.rig.reaped == [(pid, 9)]
        bench.pass_time(100)
    assert len(bench.rig.observer.of(WorkerKilled)) == 1
    with expires(10, "x", worker):
        bench.pass_time(11)
    assert bench.rig.reaped == [(pid, 9)] * 2
    assert bench.counts() == (2, 2, 2, 0, 0)
    assert bench.rig.observer.of(WorkerExited) == []


# -- moved ----------------------------------------------------------------------------------------


def test_what_is_moved_is_counted_once_and_watched_on(bench: Bench, pid: int) -> None:
    worker = bench.worker()
    for _ in range(5):
        with expires(10, "x", worker):
            bench.rig.clock.advance(0.01)
    block = expires(10, "x", worker)
    block.__enter__()
    assert bench.counts() == (6, 5, 0, 1, 0)
    with expires(10, "y", worker):
        pass  # which the server has not counted yet
    worker.move()
    bench.pass_time(5)
    bench.hand_over(worker)
    assert (bench.counts(), bench.counts("y")) == ((6, 5, 0, 1, 0), (1, 1, 0, 0, 0))
    assert sum(bench.scope().durations.counts) == 5
    with expires(10, "z", worker):
        pass
    bench.pass_time(5)
    assert bench.rig.reaped == [(pid, 9)]
    block.__exit__(None, None, None)
    assert (bench.counts(), bench.counts("z")) == ((6, 6, 1, 0, 0), (1, 1, 0, 0, 0))
    assert sum(bench.scope().durations.counts) == 6


def test_what_is_left_after_the_move_does_not_expire_where_it_was(bench: Bench) -> None:
    worker = bench.worker()
    with expires(10, "x", worker):
        worker.move()
    bench.pass_time(11)
    assert bench.rig.reaped == []
    bench.hand_over(worker)
    bench.pass_time(11)
    assert bench.rig.reaped == []
    assert bench.counts() == (1, 1, 0, 0, 0)


def test_what_has_expired_expires_once_though_it_is_moved(bench: Bench, pid: int) -> None:
    worker = bench.worker()
    with expires(10, "x", worker):
        bench.pass_time(11)
        worker.move()
        bench.pass_time(1)
        worker.move()  # before anybody was handed the first one
        bench.hand_over(worker)
        bench.pass_time(11)
    assert bench.rig.reaped == [(pid, 9)]
    assert len(bench.rig.observer.of(TimerExpired)) == 1
    assert bench.counts() == (1, 1, 1, 0, 0)


def test_another_server_goes_on_from_where_the_last_one_was(make: Callable[..., Bench]) -> None:
    first, second = make(), make()
    worker = first.worker()
    with expires(10, "x", worker):
        assert first.counts() == (1, 0, 0, 1, 0)
        worker.move()
    with expires(10, "x", worker):
        pass
    second.hand_over(worker)
    assert second.counts() == (1, 2, 0, 0, 0)


# -- counted --------------------------------------------------------------------------------------


def test_a_release_of_nothing_is_counted_at_once(bench: Bench) -> None:
    worker = bench.worker()
    with expires(10, "x", worker):
        pass
    assert bench.counts() == (1, 1, 0, 0, 0)
    worker.release("x")
    assert bench.counts() == (1, 2, 0, 0, 0)
    worker.release("x")
    assert bench.counts() == (1, 3, 0, 0, 0)
    assert sum(bench.scope().durations.counts) == 1


def test_gauges_are_right_after_a_step_that_failed(make: Callable[..., Bench]) -> None:
    bench = make(reaps=False)
    worker = bench.worker()
    before = expires(10, "x", worker)
    before.__enter__()
    assert bench.counts() == (1, 0, 0, 1, 0)
    before.__exit__(None, None, None)
    with expires(10, "y", worker):
        bench.rig.watchdog._recover()
        assert (bench.counts(), bench.counts("y")) == ((1, 1, 0, 0, 0), (1, 0, 0, 1, 0))
        with expires(5, "x", worker):
            bench.pass_time(5)
            assert bench.counts() == (2, 1, 1, 1, 1)
            bench.rig.watchdog._recover()
            assert bench.counts() == (2, 1, 1, 1, 1)
            bench.rig.watchdog._retries.clear()
            bench.rig.watchdog._recover()
            assert bench.counts() == (2, 1, 1, 1, 0)
            bench.pass_time(0)
            assert bench.counts() == (2, 1, 2, 1, 1)
    assert (bench.counts(), bench.counts("y")) == ((2, 2, 2, 0, 0), (1, 1, 0, 0, 0))


def test_slots_beyond_what_one_worker_may_have_are_refused(
    make: Callable[..., Bench], pid: int
) -> None:
    bench = make(policy=ReapPolicy(max_timers=6))
    blocks: list[expires] = []
    for worker in (bench.worker(Layout(4)), bench.worker(Layout(8))):
        blocks += [expires(1, f"scope {number}", worker) for number in range(4)]
    for block in blocks:
        block.__enter__()
    bench.pass_time(2)
    assert bench.rig.reaped == [(pid, 9)]
    assert len(bench.rig.observer.of(TimerExpired)) == 6
    statistics = bench.rig.watchdog.statistics
    for _ in range(2):
        statistics.collect()
        assert statistics.rejected["too_many"] == 2


# -- events ---------------------------------------------------------------------------------------


def test_events_that_nobody_wants_any_more_are_not_emitted(bench: Bench, pid: int) -> None:
    bench.worker()
    message = Message(pid, "x", 1e9, 9, thread=1, after=1.0, board=True)
    bench.rig.watchdog.apply([message, message._replace(took=0.5)])
    assert bench.rig.observer.names == []
