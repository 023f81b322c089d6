"""The engine, driven by hand: a clock that is moved, requests that are put in, no sleeping."""

from __future__ import annotations

import logging
import os
import signal
import threading
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from support.children import alive, descriptors, dropped, in_pid_namespace, waiting
from support.rig import Rig
from timers import ReapPolicy
from timers.events import (
    Outcome,
    ReapFailed,
    RequestRejected,
    StackDumped,
    TimerAcquired,
    TimerExpired,
    TimerOverran,
    TimerReleased,
    WatchdogStarted,
    WatchdogStopped,
    WorkerExited,
    WorkerKilled,
)
from timers.linux import procfs
from timers.linux.process import Process
from timers.stacks.dump import Frame, StackDump, ThreadStack
from timers.transport.wire import Message, Rejection

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from timers.server.watchdog import RunningTimer


@pytest.fixture
def worker() -> Iterator[int]:
    with waiting() as pid:
        yield pid


@pytest.fixture
def make() -> Iterator[Callable[..., Rig]]:
    """Makes rigs, and closes them."""
    made: list[Rig] = []

    def make(**options: Any) -> Rig:
        made.append(Rig(**options))
        return made[-1]

    yield make
    for rig in made:
        rig.settle()
        rig.close()


@pytest.fixture
def rig(make: Callable[..., Rig]) -> Rig:
    """One whose kills are only noted."""
    return make(reap=lambda pid, signal: True)  # noqa: ARG005  # torch's signature


def scopes(rig: Rig) -> list[str]:
    return [timer.scope_id for timer in rig.watchdog.state.table]


def counts(rig: Rig, scope: str = "x") -> tuple[int, int, int, int]:
    found = rig.watchdog.statistics.scopes[scope]
    return found.acquires, found.releases, found.expirations, found.active


def held(event: WorkerKilled | WorkerExited) -> dict[str, float]:
    """The timers an event names, with the seconds since their block began."""
    return {timer.scope_id: age for timer, age in event.timers}


# -- acquire, release, expire ---------------------------------------------------------------------


def test_a_block_that_ends_in_time(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=10)
    assert counts(rig) == (1, 0, 0, 1)
    rig.pass_time(9.999)
    rig.release(worker, "x")
    rig.pass_time(100)
    assert counts(rig) == (1, 1, 0, 0)
    assert rig.observer.names == ["timer acquired", "timer released"]
    (released,) = rig.observer.of(TimerReleased)
    assert released.elapsed_seconds == pytest.approx(9.999)
    assert released.timer.after_seconds == pytest.approx(10)
    assert rig.reaped == []


def test_a_block_that_overruns(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=10, signal=15)
    rig.pass_time(9.999)
    assert rig.reaped == []
    rig.pass_time(0.251)
    assert rig.reaped == [(worker, 15)]
    assert counts(rig) == (1, 0, 1, 0)
    assert rig.observer.names == ["timer acquired", "timer expired", "kill worker process"]
    (expired,) = rig.observer.of(TimerExpired)
    assert expired.lateness_seconds == pytest.approx(0.25)
    assert expired.elapsed_seconds == pytest.approx(10.25)
    assert expired.timer.after_seconds == pytest.approx(10)
    assert expired.worker.pid == worker
    assert expired.run_id == "run-1"
    (killed,) = rig.observer.of(WorkerKilled)
    assert (killed.signal, killed.outcome) == (15, Outcome.KILLED)
    assert held(killed) == pytest.approx({"x": 10.25})
    rig.pass_time(1000)
    assert len(rig.reaped) == 1


def test_a_deadline_is_reached_exactly(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=10)
    rig.pass_time(10)
    assert rig.reaped == [(worker, 9)]
    (expired,) = rig.observer.of(TimerExpired)
    assert expired.lateness_seconds == 0


def test_after_zero_expires_at_once(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=0)
    rig.acquire_as_torch(worker, "y", after=-5)
    rig.pass_time(0)
    assert rig.reaped == [(worker, 9)]
    assert len(rig.observer.of(TimerExpired)) == 2


def test_a_heartbeat_restarts_the_countdown_and_not_the_block(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=10, traceparent="00-1-1-01")
    for _ in range(5):
        rig.pass_time(9)
        rig.acquire(worker, "x", after=10)
    assert rig.observer.of(TimerExpired) == []
    assert counts(rig) == (6, 0, 0, 1)
    rig.pass_time(1)
    rig.release(worker, "x")
    (released,) = rig.observer.of(TimerReleased)
    assert released.elapsed_seconds == pytest.approx(46)
    assert released.timer.traceparent == "00-1-1-01"
    statistics = rig.watchdog.statistics.scopes["x"]
    assert statistics.durations.total == pytest.approx(46)
    assert statistics.ratios.total == pytest.approx(0.1)  # of the last countdown


def test_a_heartbeat_that_stops_is_an_overrun(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=10)
    rig.pass_time(5)
    rig.acquire(worker, "x", after=10)
    rig.pass_time(9.9)
    assert rig.reaped == []
    rig.pass_time(0.1)
    assert rig.reaped == [(worker, 9)]


def test_releasing_what_does_not_run_is_counted_and_nothing_else(rig: Rig, worker: int) -> None:
    rig.release(worker, "x")
    rig.release(worker, "x", thread=None)
    assert counts(rig) == (0, 2, 0, 0)
    assert rig.watchdog.statistics.requests == 2
    assert rig.watchdog.statistics.workers == 1
    assert rig.observer.names == []


def test_threads_of_a_worker_have_timers_of_their_own(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=10, thread=1)
    rig.acquire(worker, "x", after=20, thread=2)
    assert counts(rig) == (2, 0, 0, 2)
    rig.release(worker, "x", thread=2)
    rig.pass_time(10)
    (expired,) = rig.observer.of(TimerExpired)
    assert expired.timer.thread == 1


def test_requests_without_a_thread_follow_torchs_rule(rig: Rig, worker: int) -> None:
    rig.acquire_as_torch(worker, "x", after=10)
    rig.acquire_as_torch(worker, "x", after=20)  # the last one wins
    assert counts(rig) == (2, 0, 0, 1)
    rig.pass_time(10)
    assert rig.reaped == []
    rig.release(worker, "x", thread=None)  # one release removes
    assert counts(rig) == (2, 1, 0, 0)
    rig.pass_time(100)
    assert rig.reaped == []


def test_workers_have_timers_of_their_own(rig: Rig, worker: int) -> None:
    with waiting() as other:
        rig.acquire(worker, "x", after=10)
        rig.acquire(other, "x", after=20)
        rig.release(worker, "x")
        rig.pass_time(20)
        assert rig.reaped == [(other, 9)]
    assert rig.watchdog.statistics.workers == 1


def test_several_expired_timers_of_one_worker_are_one_reap(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "late", after=3, signal=9)
    rig.acquire(worker, "observed", after=1, signal=0)
    rig.acquire(worker, "first", after=2, signal=15)
    rig.acquire(worker, "running", after=100)
    rig.pass_time(5)
    assert rig.reaped == [(worker, 15)]
    assert [event.timer.scope_id for event in rig.observer.of(TimerExpired)] == [
        "observed",
        "first",
        "late",
    ]
    (killed,) = rig.observer.of(WorkerKilled)
    assert killed.timer.scope_id == "first"
    assert {timer.scope_id for timer, _ in killed.timers} == {
        "late", "observed", "first", "running",
    }  # fmt: skip
    assert scopes(rig) == []
    assert rig.watchdog.statistics.scopes["first"].reaps[Outcome.KILLED] == 1


def test_clearing_drops_the_timers_and_keeps_the_worker(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=10)
    rig.watchdog.clear([worker, 999_999_999])
    assert (scopes(rig), counts(rig)) == ([], (1, 0, 0, 0))
    assert rig.watchdog.statistics.workers == 1
    rig.pass_time(20)
    assert rig.reaped == []


# -- blocks in blocks -----------------------------------------------------------------------------


def test_the_end_of_an_inner_block_leaves_the_outer_one_protected(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=100)
    rig.pass_time(10)
    rig.acquire(worker, "x", after=5, nested=True)
    rig.pass_time(2)
    rig.acquire(worker, "x", after=100, leave=True)
    assert counts(rig) == (2, 1, 0, 1)
    (inner,) = rig.observer.of(TimerReleased)
    assert inner.elapsed_seconds == pytest.approx(2)
    assert inner.timer.after_seconds == pytest.approx(5)
    rig.pass_time(99)
    assert rig.reaped == []
    rig.pass_time(1)
    assert rig.reaped == [(worker, 9)]
    (expired,) = rig.observer.of(TimerExpired)
    assert expired.elapsed_seconds == pytest.approx(100)
    (killed,) = rig.observer.of(WorkerKilled)
    assert killed.timers[0][1] == pytest.approx(112)  # since the outer block was entered


def test_an_inner_block_that_overruns(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=100)
    rig.acquire(worker, "x", after=5, nested=True)
    rig.pass_time(5)
    assert rig.reaped == [(worker, 9)]


def test_three_deep_every_block_is_measured_from_its_own_beginning(rig: Rig, worker: int) -> None:
    for depth in range(3):
        rig.acquire(worker, "x", after=10, nested=depth > 0)
        rig.pass_time(1)
    for _ in range(2):
        rig.acquire(worker, "x", after=10, leave=True)
        rig.pass_time(1)
    rig.release(worker, "x")
    elapsed = [event.elapsed_seconds for event in rig.observer.of(TimerReleased)]
    assert elapsed == [pytest.approx(1), pytest.approx(3), pytest.approx(5)]
    assert counts(rig) == (3, 3, 0, 0)


def test_a_heartbeat_inside_an_inner_block_keeps_the_outer_one(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=10, traceparent="outer")
    rig.pass_time(1)
    rig.acquire(worker, "x", after=10, nested=True, traceparent="inner")
    rig.pass_time(1)
    rig.acquire(worker, "x", after=10)
    rig.pass_time(1)
    rig.acquire(worker, "x", after=10, leave=True)
    rig.pass_time(1)
    rig.release(worker, "x")
    inner, outer = rig.observer.of(TimerReleased)
    assert inner.elapsed_seconds == pytest.approx(2)
    assert outer.elapsed_seconds == pytest.approx(4)
    assert (inner.timer.traceparent, outer.timer.traceparent) == ("inner", "outer")


def kept(rig: Rig) -> int:
    """How many timers there are, those of blocks around others included."""
    found = 0
    for timer in rig.watchdog.state.table:
        outer = timer.outer
        while outer is not None:
            found, outer = found + 1, outer.outer
    return found + len(rig.watchdog.state.table)


def test_nested_blocks_beyond_the_bound_are_watched_and_not_remembered(
    make: Callable[..., Rig], worker: int
) -> None:
    rig = make(reap=Answers(), policy=ReapPolicy(max_timers=10))
    depth = 30
    for number in range(depth):
        rig.acquire(worker, "x", after=100 + number, nested=number > 0)
    assert kept(rig) == 1 + 10
    assert rig.watchdog.statistics.rejected["too_many"] == depth - 1 - 10
    assert counts(rig) == (depth, 0, 0, 1)
    for number in reversed(range(1, depth)):
        rig.acquire(worker, "x", after=100 + number, leave=True)
        [timer] = rig.watchdog.state.table
        assert timer.deadline_ns == rig.clock.monotonic_ns() + (100 + number) * 10**9
    assert counts(rig) == (depth, depth - 1, 0, 1)
    # There is room for others again, and for as many in all as before.
    for number in range(30):
        for scope in ("y", "z"):
            rig.acquire(worker, scope, after=50, nested=number > 0)
    assert kept(rig) <= 10 + 3
    for scope in ("x", "y", "z"):
        rig.release(worker, scope)
    assert (kept(rig), counts(rig, "y")[3]) == (0, 0)
    for number in range(30):
        rig.acquire(worker, "x", after=1, nested=number > 0)
    assert kept(rig) == 1 + 10
    rig.pass_time(2)
    assert rig.reaped == [(worker, 9)]
    assert kept(rig) == 0


def test_the_count_of_nested_blocks_survives_whatever_is_sent(
    make: Callable[..., Rig], worker: int
) -> None:
    rig = make(policy=ReapPolicy(max_timers=10), reap=Answers())
    random = Random(13)
    for _ in range(3000):
        scope = random.choice("abcd")
        if random.random() < 0.2:
            rig.release(worker, scope)
        elif random.random() < 0.02:
            rig.watchdog.clear([worker])
        else:
            kind = random.choice(["nested", "leave", "heartbeat"])
            rig.acquire(worker, scope, after=100, nested=kind == "nested", leave=kind == "leave")
        found = rig.watchdog.workers.by_pid[worker].outers
        assert found == kept(rig) - len(rig.watchdog.state.table)
        assert found <= 10


def test_a_leave_that_finds_nothing_is_an_acquire(rig: Rig, worker: int) -> None:
    # The server was started between the inner block's beginning and its end.
    rig.acquire(worker, "x", after=10, leave=True)
    assert counts(rig) == (0, 1, 0, 1)
    rig.pass_time(10)
    assert rig.reaped == [(worker, 9)]


# -- warnings and looks before the deadline --------------------------------------------------------


def test_a_slow_block_is_warned_of_once(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=10, warn_after=4)
    rig.pass_time(3.999)
    assert rig.observer.names == ["timer acquired"]
    rig.pass_time(0.001)
    (warning,) = rig.observer.of(TimerOverran)
    assert warning.elapsed_seconds == pytest.approx(4)
    assert (warning.worker.pid, warning.timer.scope_id) == (worker, "x")
    rig.pass_time(5)
    assert len(rig.observer.of(TimerOverran)) == 1
    assert (counts(rig), rig.reaped) == ((1, 0, 0, 1), [])
    rig.pass_time(1)
    assert rig.observer.names[1:] == ["timer warning", "timer expired", "kill worker process"]


def test_a_block_that_ends_in_time_is_not_warned_of(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=10, warn_after=4)
    rig.pass_time(3)
    rig.release(worker, "x")
    rig.pass_time(30)
    assert rig.observer.names == ["timer acquired", "timer released"]


def test_a_heartbeat_restarts_the_warning_too(rig: Rig, worker: int) -> None:
    for _ in range(3):
        rig.acquire(worker, "x", after=10, warn_after=4)
        rig.pass_time(3)
    assert rig.observer.of(TimerOverran) == []
    rig.pass_time(1)
    assert len(rig.observer.of(TimerOverran)) == 1


def test_what_expires_before_anybody_looked_is_not_warned_of_any_more(
    rig: Rig, worker: int
) -> None:
    rig.acquire(worker, "x", after=10, warn_after=4)
    rig.pass_time(10)
    assert rig.observer.names == ["timer acquired", "timer expired", "kill worker process"]


class Looks:
    """A sampler that notes what it is shown, and then may raise."""

    first = (1, 250)

    def __init__(self, error: Exception | None = None) -> None:
        self.seen: list[tuple[str, float]] = []
        self._error = error

    def moments(self, after_seconds: float) -> tuple[float, ...]:
        return (after_seconds / 4, after_seconds / 2)

    def look(self, running: RunningTimer, /) -> None:
        self.seen.append((running.timer.scope_id, running.age_seconds))
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("error", [None, KeyError("mine")])
def test_a_sampler_looks_at_its_moments_and_delays_no_deadline(
    rig: Rig, worker: int, error: Exception | None
) -> None:
    looks = Looks(error)
    rig.watchdog.sample_with(looks)
    rig.acquire(worker, "x", after=8)
    for _ in range(7):
        rig.pass_time(1)
    assert looks.seen == [("x", 2.0), ("x", 4.0)]
    assert rig.reaped == []
    rig.pass_time(1)
    assert rig.reaped == [(worker, 9)]
    assert len(looks.seen) == 2


def test_the_loop_wakes_up_for_a_warning(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=10, warn_after=4)
    assert rig.watchdog.state.table.next_deadline() == rig.clock.monotonic_ns() + 4 * 10**9
    rig.clock.advance(1.5)
    rig.step()
    rig.clock.advance(1.5)
    rig.step()
    assert rig.observer.of(TimerOverran) == []
    rig.clock.advance(1)
    rig.step()
    assert len(rig.observer.of(TimerOverran)) == 1


def test_an_acquire_that_was_held_up_waits_a_moment_for_its_release(rig: Rig, worker: int) -> None:
    def late(scope: str) -> Message:
        deadline_ns = rig.clock.monotonic_ns() - 5 * 10**9
        return Message(worker, scope, 1.0, 9, thread=1, deadline_ns=deadline_ns, after=1.0)

    rig.watchdog.apply([late("x"), late("y")])
    rig.pass_time(0.4)
    assert rig.observer.of(TimerExpired) == []
    rig.release(worker, "x")
    rig.pass_time(0.2)
    assert [event.timer.scope_id for event in rig.observer.of(TimerExpired)] == ["y"]
    assert rig.reaped == [(worker, 9)]


# -- clocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [3600.0, -3600.0, 10 * 365 * 86400.0, -10 * 365 * 86400.0])
@pytest.mark.parametrize("kind", ["ours", "torch"])
def test_a_stepped_wall_clock_kills_nobody_early_and_spares_nobody(
    rig: Rig, worker: int, kind: str, step: float
) -> None:
    acquire = rig.acquire if kind == "ours" else rig.acquire_as_torch
    acquire(worker, "x", after=60)
    rig.pass_time(20)
    rig.clock.step_wall(step)
    rig.pass_time(20)
    rig.clock.step_wall(-step / 2)
    rig.pass_time(19.999)
    assert rig.observer.of(TimerAcquired) != []
    assert rig.observer.of(TimerExpired) == []
    assert rig.reaped == []
    rig.pass_time(0.001)
    assert rig.reaped == [(worker, 9)]
    (expired,) = rig.observer.of(TimerExpired)
    assert expired.elapsed_seconds == pytest.approx(60)
    assert expired.lateness_seconds == pytest.approx(0, abs=1e-6)
    assert expired.timer.after_seconds == pytest.approx(60)


def test_an_hour_forward_and_back_within_one_block(rig: Rig, worker: int) -> None:
    rig.acquire_as_torch(worker, "x", after=60)
    rig.clock.step_wall(3600)
    rig.pass_time(30)
    rig.clock.step_wall(-3600)
    rig.release(worker, "x", thread=None)
    (released,) = rig.observer.of(TimerReleased)
    assert released.elapsed_seconds == pytest.approx(30)
    rig.pass_time(3600)
    assert rig.reaped == []


def test_our_messages_do_not_need_the_wall_clock_at_all(rig: Rig, worker: int) -> None:
    # The worker's wall clock, in a container of its own, is off by a day in either direction.
    for expiration_time in (rig.clock.time() - 86400, rig.clock.time() + 86400):
        deadline_ns = rig.clock.monotonic_ns() + 10 * 10**9
        scope = f"{expiration_time}"
        rig.watchdog.apply(
            [
                Message(
                    worker, scope, expiration_time, 9, thread=1, deadline_ns=deadline_ns, after=10
                )
            ]
        )
    rig.pass_time(9.999)
    assert (len(rig.watchdog.state.table), rig.reaped) == (2, [])
    rig.pass_time(0.001)
    assert rig.reaped == [(worker, 9)]
    assert len(rig.observer.of(TimerExpired)) == 2


def test_the_statistics_see_lateness_and_the_last_sweep(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=10)
    rig.pass_time(12.5)
    statistics = rig.watchdog.statistics
    assert statistics.lateness.total == pytest.approx(2.5)
    assert sum(statistics.lateness.counts) == 1
    assert statistics.last_sweep == rig.clock.time()


# -- a step of the loop ---------------------------------------------------------------------------


def test_a_step_reads_expires_and_reaps(rig: Rig, worker: int) -> None:
    rig.source.put(Message(worker, "x", rig.clock.time() + 1, 9), Rejection("empty", "nothing"))
    rig.step()
    assert scopes(rig) == ["x"]
    assert rig.watchdog.statistics.rejected["empty"] == 1
    rig.clock.advance(1)
    rig.step()
    rig.settle()
    assert rig.reaped == [(worker, 9)]


def test_a_release_in_the_transport_counts_although_its_deadline_has_passed(
    rig: Rig, worker: int
) -> None:
    rig.acquire(worker, "x", after=1)
    rig.clock.advance(1.5)
    rig.source.put(Message(worker, "x", -1, 0, thread=1))
    rig.step()
    assert rig.observer.of(TimerExpired) == []
    assert rig.observer.names == ["timer acquired", "timer released"]


def test_a_deadline_that_passes_while_requests_are_taken_up_is_for_the_next_step(
    rig: Rig, worker: int
) -> None:
    # The release was sent before the deadline, but after the source was read: it must count.
    rig.acquire(worker, "x", after=1)
    read = rig.source.read
    reads: list[float] = []

    def slow(
        timeout: float, pids: Collection[int] = ()
    ) -> tuple[Sequence[Message], Sequence[Rejection]]:
        found = read(timeout, pids)
        if len(reads) == 1:
            rig.source.put(Message(worker, "x", -1, 0, thread=1))
            rig.clock.advance(1.5)
        reads.append(timeout)
        return found

    rig.source.read = slow  # type: ignore[method-assign]  # a source that takes its time
    rig.step()
    assert len(reads) == 2
    assert rig.observer.of(TimerExpired) == []
    rig.step()
    assert rig.observer.names == ["timer acquired", "timer released"]
    assert rig.reaped == []


def test_a_server_that_was_stopped_lets_the_releases_arrive_first(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=10)
    rig.acquire(worker, "y", after=10)
    read = rig.source.read

    def stopped(
        timeout: float, pids: Collection[int] = ()
    ) -> tuple[Sequence[Message], Sequence[Rejection]]:
        rig.source.read = read  # type: ignore[method-assign]  # stopped once
        rig.clock.advance(3600)  # SIGSTOP, a frozen cgroup, a suspended laptop
        return read(timeout, pids)

    rig.source.read = stopped  # type: ignore[method-assign]  # it is stopped while it waits
    rig.watchdog.step(rig.clock.monotonic_ns() + 10**9)
    assert rig.observer.of(TimerExpired) == []
    rig.release(worker, "x")  # what its worker could not send before
    rig.clock.advance(0.6)
    rig.step()
    rig.settle()
    assert [event.timer.scope_id for event in rig.observer.of(TimerExpired)] == ["y"]
    assert rig.reaped == [(worker, 9)]


def test_a_sleeping_step_is_woken(rig: Rig) -> None:
    woken = threading.Event()

    def sleep() -> None:
        rig.watchdog.step(rig.clock.monotonic_ns() + 3600 * 10**9)
        woken.set()

    # The fake source has no descriptor, but wakes are waited for in epoll all the same.
    thread = threading.Thread(target=sleep, daemon=True)
    rig.watchdog.wake()
    thread.start()
    assert woken.wait(30)
    thread.join()


def test_one_request_that_cannot_be_taken_up_costs_that_request(rig: Rig, worker: int) -> None:
    impossible: Any = "tomorrow"
    rig.watchdog.apply(
        [
            Message(worker, "x", rig.clock.time() + 1, 9),
            Message(worker, "bad", impossible, 9),
            Message(2**40, "x", rig.clock.time() + 1, 9),
            Message(worker, "y", rig.clock.time() + 1, 9),
        ]
    )
    assert scopes(rig) == ["x", "y"]
    assert sum(rig.watchdog.statistics.rejected.values()) == 2


# -- rejections -----------------------------------------------------------------------------------


def test_rejections_are_counted_exactly_and_told_once_a_second_for_each_reason(rig: Rig) -> None:
    def reject(reason: str, times: int) -> None:
        rig.watchdog.apply([], [Rejection(reason, f"{reason} {n}") for n in range(times)])

    reject("empty", 5)
    reject("not_json", 3)
    rig.clock.advance(0.999)
    reject("empty", 2)
    assert [(e.reason, e.detail, e.suppressed) for e in rig.observer.of(RequestRejected)] == [
        ("empty", "empty 0", 0),
        ("not_json", "not_json 0", 0),
    ]
    rig.clock.advance(0.001)
    reject("empty", 2)
    last = rig.observer.of(RequestRejected)[-1]
    assert (last.reason, last.suppressed) == ("empty", 6)
    rig.clock.advance(5)
    reject("empty", 1)
    last = rig.observer.of(RequestRejected)[-1]
    assert (last.reason, last.suppressed) == ("empty", 1)
    assert rig.watchdog.statistics.rejected["empty"] == 10
    assert rig.watchdog.statistics.rejected["not_json"] == 3
    assert rig.watchdog.statistics.requests == 0


def test_a_stepped_wall_clock_does_not_open_the_gates_for_rejections(rig: Rig) -> None:
    for _ in range(3):
        rig.watchdog.apply([], [Rejection("empty", "")])
        rig.clock.step_wall(3600)
    assert len(rig.observer.of(RequestRejected)) == 1


def test_a_request_in_the_name_of_another_process_is_rejected(rig: Rig, worker: int) -> None:
    start_time = procfs.start_time(worker)
    assert start_time is not None
    rig.acquire(worker, "x", after=1, start_time=start_time - 1)
    assert rig.watchdog.statistics.rejected["identity_mismatch"] == 1
    assert scopes(rig) == []
    assert rig.watchdog.statistics.workers == 0
    rig.acquire(worker, "y", after=1, start_time=start_time)
    rig.acquire(worker, "z", after=1, start_time=start_time + 1)
    assert rig.watchdog.statistics.rejected["identity_mismatch"] == 2
    assert scopes(rig) == ["y"]


@pytest.mark.parametrize("scenario", ["watchdog", "late-request", "during-the-dump", "in-one-step"])
def test_a_recycled_pid_is_never_signalled(scenario: str) -> None:
    in_pid_namespace("recycled", scenario)


# -- exits ----------------------------------------------------------------------------------------


def test_an_exit_is_noticed_and_clears_the_timers(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=10)
    rig.acquire(worker, "y", after=10, thread=2)
    rig.clock.advance(3)
    dropped(worker)
    rig.step()
    (exited,) = rig.observer.of(WorkerExited)
    assert exited.worker.pid == worker
    assert exited.level == "warning"
    assert held(exited) == pytest.approx({"x": 3, "y": 3})
    assert (scopes(rig), rig.watchdog.statistics.workers) == ([], 0)
    assert counts(rig) == (1, 0, 0, 0)
    rig.pass_time(100)
    assert rig.reaped == []


def test_an_exit_outside_of_any_block_is_no_warning(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=10)
    rig.release(worker, "x")
    dropped(worker)
    rig.step()
    (exited,) = rig.observer.of(WorkerExited)
    assert (exited.level, exited.timers) == ("info", ())


def test_the_last_words_of_a_worker_are_read_before_its_exit_is_noticed(
    rig: Rig, worker: int
) -> None:
    rig.acquire(worker, "x", after=10)
    rig.source.put(Message(worker, "x", -1, 0, thread=1))
    dropped(worker)
    rig.step()
    assert rig.observer.names == ["timer acquired", "timer released", "worker exited"]
    (exited,) = rig.observer.of(WorkerExited)
    assert exited.timers == ()


def test_requests_of_a_worker_that_had_ended_already_are_counted(rig: Rig, worker: int) -> None:
    dropped(worker)
    rig.acquire(worker, "x", after=1, start_time=5)
    rig.release(worker, "x")
    rig.acquire(worker, "y", after=1, start_time=5)
    rig.step()
    rig.step()
    (exited,) = rig.observer.of(WorkerExited)
    assert [timer.scope_id for timer, _ in exited.timers] == ["y"]
    assert counts(rig, "x") == (1, 1, 0, 0)
    assert counts(rig, "y") == (1, 0, 0, 0)
    assert list(rig.watchdog.workers) == []
    assert rig.watchdog.statistics.workers == 0
    rig.pass_time(10)
    assert rig.reaped == []


def test_an_exit_is_noticed_where_there_are_no_pidfds(
    rig: Rig, worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(pid: int, flags: int = 0) -> int:
        raise OSError(24, "Too many open files", str(pid), None, flags)

    monkeypatch.setattr(os, "pidfd_open", exhausted)
    rig.acquire(worker, "x", after=10)
    rig.step()
    assert scopes(rig) == ["x"]
    dropped(worker)
    rig.step()
    assert [timer.scope_id for timer, _ in rig.observer.of(WorkerExited)[0].timers] == ["x"]
    assert scopes(rig) == []


def test_who_overrides_is_running_is_asked(make: Callable[..., Rig], worker: int) -> None:
    asked: list[int] = []

    def is_running(pid: int) -> bool:
        asked.append(pid)
        return True

    rig = make(is_running=is_running)
    rig.acquire(worker, "x", after=10)
    os.kill(worker, signal.SIGKILL)
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    rig.step()
    assert asked == [worker]
    assert rig.observer.of(WorkerExited) == []
    assert scopes(rig) == ["x"]


def test_an_is_running_that_raises_is_no_reason_to_keep_the_dead(
    make: Callable[..., Rig], worker: int, caplog: pytest.LogCaptureFixture
) -> None:
    def is_running(pid: int) -> bool:
        raise KeyError(pid)

    rig = make(is_running=is_running)
    rig.acquire(worker, "x", after=10)
    dropped(worker)
    rig.step()
    assert len(rig.observer.of(WorkerExited)) == 1
    assert scopes(rig) == []
    assert "is_process_running raised" in caplog.text


# -- the reap -------------------------------------------------------------------------------------

DUMP = StackDump(
    pid=0,
    method="py-spy",
    threads=(ThreadStack(frames=(Frame("f", "f.py", 1),)),),
    seconds=0.25,
)


def test_a_real_worker_is_explained_killed_and_confirmed(
    make: Callable[..., Rig], worker: int
) -> None:
    calls: list[tuple[str, dict[int, list[str]], bool]] = []

    def before_kill(run_id: str, expired: dict[int, list[str]]) -> dict[int, StackDump]:
        calls.append((run_id, expired, alive(worker)))
        return {worker: DUMP}

    rig = make(before_kill=before_kill)
    rig.acquire(worker, "x", after=1, signal=signal.SIGTERM)
    rig.pass_time(2)
    ((run_id, expired, lived),) = calls
    assert (run_id, list(expired), lived) == ("run-1", [worker], True)
    assert '"scope_id": "x"' in expired[worker][0]
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -signal.SIGTERM
    assert rig.observer.names == [
        "timer acquired",
        "timer expired",
        "stack dumped",
        "kill worker process",
    ]
    assert rig.observer.of(StackDumped)[0].dump is DUMP
    assert rig.observer.flushes == [3]  # what explains the kill is delivered before the kill
    assert rig.watchdog.statistics.dumps["py-spy", "ok"].total == 0.25
    assert list(rig.watchdog.workers) == []
    rig.step()
    assert rig.observer.of(WorkerExited) == []  # the kill has told it


def test_a_signal_of_zero_or_less_only_observes(make: Callable[..., Rig], worker: int) -> None:
    rig = make(before_kill=lambda run_id, expired: {worker: DUMP})  # noqa: ARG005  # torch's signature
    rig.acquire(worker, "x", after=1, signal=0)
    rig.acquire(worker, "y", after=1, signal=-9)
    rig.pass_time(2)
    assert alive(worker)
    assert rig.reaped == []
    assert rig.observer.names[2:] == ["timer expired", "timer expired", "stack dumped"]
    assert set(scopes(rig)) == {"x", "y"}
    rig.pass_time(1000)
    assert len(rig.observer.of(TimerExpired)) == 2
    rig.release(worker, "x")
    assert counts(rig) == (1, 1, 1, 0)
    released = rig.observer.of(TimerReleased)[0]
    assert released.elapsed_seconds == pytest.approx(1002)
    # And it is still a worker: what comes next is watched as ever.
    rig.acquire(worker, "z", after=1)
    rig.pass_time(2)
    assert rig.reaped == [(worker, 9)]


def test_an_observed_worker_that_died_during_its_dump_is_told_as_exited(
    make: Callable[..., Rig], worker: int
) -> None:
    rig = make(before_kill=lambda run_id, expired: dropped(worker))  # noqa: ARG005  # torch's signature
    rig.acquire(worker, "x", after=1, signal=0)
    rig.pass_time(2)
    rig.step()  # it may have sent something right before its end, which is read first
    (exited,) = rig.observer.of(WorkerExited)
    assert [timer.scope_id for timer, _ in exited.timers] == ["x"]
    assert scopes(rig) == []


def test_a_worker_that_is_already_gone(make: Callable[..., Rig], worker: int) -> None:
    rig = make()
    rig.acquire(worker, "x", after=1)
    dropped(worker)
    rig.pass_time(2)  # the deadline comes before anybody has looked at the exit
    (killed,) = rig.observer.of(WorkerKilled)
    assert killed.outcome is Outcome.ALREADY_GONE
    assert rig.watchdog.statistics.scopes["x"].reaps[Outcome.ALREADY_GONE] == 1


def raising(error: BaseException) -> Callable[..., object]:
    def step(*args: object) -> object:
        del args
        raise error

    return step


@pytest.mark.parametrize(
    "error", [KeyError("mine"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr
)
def test_a_step_before_the_kill_that_raises_does_not_prevent_it(
    make: Callable[..., Rig], worker: int, error: BaseException
) -> None:
    rig = make(before_kill=raising(error))
    rig.acquire(worker, "x", after=1)
    rig.pass_time(2)
    assert not alive(worker)
    (dumped,) = rig.observer.of(StackDumped)
    assert (dumped.dump.method, dumped.dump.threads) == ("none", ())
    assert type(error).__name__ in (dumped.dump.error or "")
    assert rig.watchdog.statistics.scopes["x"].reaps[Outcome.KILLED] == 1


def test_a_step_before_the_kill_that_hangs_does_not_prevent_it(
    make: Callable[..., Rig], worker: int
) -> None:
    go_on = threading.Event()
    rig = make(
        before_kill=lambda run_id, expired: go_on.wait(),  # noqa: ARG005  # torch's signature
        policy=ReapPolicy(dump_timeout=0.05),
    )
    rig.acquire(worker, "x", after=1)
    rig.pass_time(2)
    assert not alive(worker)
    (dumped,) = rig.observer.of(StackDumped)
    assert "not finished within" in (dumped.dump.error or "")
    go_on.set()


def test_one_workers_dump_does_not_hold_up_another_workers_kill(
    make: Callable[..., Rig], worker: int
) -> None:
    go_on = threading.Event()
    with waiting() as other:

        def before_kill(run_id: str, expired: dict[int, list[str]]) -> None:
            del run_id
            if worker in expired:
                assert go_on.wait(60)

        rig = make(before_kill=before_kill, policy=ReapPolicy(dump_timeout=60))
        rig.acquire(worker, "x", after=1)
        rig.acquire(other, "x", after=1)
        rig.clock.advance(2)
        rig.watchdog.sweep()
        os.waitpid(other, 0)  # comes back because it was killed
        assert alive(worker)
        assert not go_on.is_set()
        go_on.set()
        rig.settle()
        assert not alive(worker)


def test_requests_are_served_during_a_reap(make: Callable[..., Rig], worker: int) -> None:
    go_on = threading.Event()
    rig = make(
        before_kill=lambda run_id, expired: go_on.wait(60),  # noqa: ARG005  # torch's signature
        policy=ReapPolicy(dump_timeout=60),
    )
    with waiting() as other:
        rig.acquire(worker, "x", after=1)
        rig.clock.advance(2)
        rig.watchdog.sweep()
        rig.acquire(other, "y", after=10)
        rig.release(other, "y")
        assert counts(rig, "y") == (1, 1, 0, 0)
        assert rig.watchdog.wait_for_reaps(0) is False
        go_on.set()
        rig.settle()
    assert counts(rig, "x") == (1, 0, 1, 0)


def test_what_was_released_while_another_timer_was_looked_at_is_no_reason_to_kill(
    make: Callable[..., Rig], worker: int
) -> None:
    go_on = threading.Event()
    rig = make(
        before_kill=lambda run_id, expired: go_on.wait(60),  # noqa: ARG005  # torch's signature
        policy=ReapPolicy(dump_timeout=60),
    )
    rig.acquire(worker, "observed", after=1, signal=0)
    rig.acquire(worker, "released", after=2)
    rig.clock.advance(1)
    rig.watchdog.sweep()
    rig.clock.advance(1)
    rig.watchdog.sweep()
    assert [event.timer.scope_id for event in rig.observer.of(TimerExpired)] == [
        "observed",
        "released",
    ]
    rig.release(worker, "released")
    go_on.set()
    rig.settle()
    rig.settle()  # of whatever the first one began
    assert rig.reaped == []
    rig.acquire(worker, "stuck", after=1)
    rig.pass_time(1)
    assert rig.reaped == [(worker, 9)]


@pytest.mark.parametrize("part", ["emit", "flush"])
@pytest.mark.parametrize("error", [KeyError("mine")])
def test_an_observer_that_raises_prevents_nothing(
    make: Callable[..., Rig], worker: int, part: str, error: Exception
) -> None:
    rig = make()
    calls: list[object] = []

    def broken(*args: object) -> bool:
        calls.append(args)
        raise error

    setattr(rig.observer, part, broken)
    rig.acquire(worker, "x", after=1)
    rig.pass_time(2)
    assert calls != []
    assert not alive(worker)
    assert rig.watchdog.statistics.scopes["x"].reaps[Outcome.KILLED] == 1


def test_without_another_thread_the_kill_comes_all_the_same(
    make: Callable[..., Rig], worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    rig = make()
    rig.acquire(worker, "x", after=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", exhausted)
        rig.pass_time(2)
    assert not alive(worker)
    assert [event.outcome for event in rig.observer.of(WorkerKilled)] == [Outcome.KILLED]


# -- what fails is tried again --------------------------------------------------------------------


class Answers:
    """A reap that answers as it is told, and then is done."""

    def __init__(self, *answers: bool | BaseException) -> None:
        self._answers = list(answers)

    def __call__(self, pid: int, signal: int) -> bool:
        del pid, signal
        answer = self._answers.pop(0) if self._answers else True
        if isinstance(answer, BaseException):
            raise answer
        return answer


def test_a_failed_reap_is_tried_again_with_back_off(make: Callable[..., Rig], worker: int) -> None:
    rig = make(reap=Answers(False, False, False))
    rig.acquire(worker, "x", after=1, signal=15)
    rig.pass_time(1)
    assert scopes(rig) == ["x"]
    waits = []
    for _ in range(3):
        failed = rig.observer.of(ReapFailed)[-1]
        assert failed.outcome is Outcome.STILL_ALIVE
        waits.append((failed.attempt, failed.retry_in_seconds))
        before = len(rig.reaped)
        rig.pass_time(failed.retry_in_seconds - 0.001)
        assert len(rig.reaped) == before
        rig.pass_time(0.001)
        assert len(rig.reaped) == before + 1
    assert waits == [(1, 1.0), (2, 2.0), (3, 4.0)]
    assert rig.reaped == [(worker, 15)] * 4
    assert len(rig.observer.of(TimerExpired)) == 1  # it expired once, however often it is tried
    assert len(rig.observer.of(WorkerKilled)) == 1
    reaps = rig.watchdog.statistics.scopes["x"].reaps
    assert (reaps[Outcome.STILL_ALIVE], reaps[Outcome.KILLED]) == (3, 1)
    rig.pass_time(1000)
    assert len(rig.reaped) == 4


def test_the_loop_wakes_up_for_a_retry(make: Callable[..., Rig], worker: int) -> None:
    rig = make(reap=Answers(False))
    rig.acquire(worker, "x", after=1)
    rig.pass_time(1)
    assert len(rig.reaped) == 1
    rig.clock.advance(1)
    rig.step()
    rig.settle()
    assert len(rig.reaped) == 2


def test_a_worker_that_went_on_after_a_failed_reap_is_left_in_peace(
    make: Callable[..., Rig], worker: int
) -> None:
    rig = make(reap=Answers(False, False))
    rig.acquire(worker, "x", after=1)
    rig.pass_time(1)
    assert len(rig.reaped) == 1
    rig.release(worker, "x")  # it was slow, not stuck
    rig.pass_time(100)
    assert len(rig.reaped) == 1
    rig.acquire(worker, "x", after=1)
    rig.pass_time(1)
    assert len(rig.reaped) == 2
    assert [event.attempt for event in rig.observer.of(ReapFailed)] == [1, 1]


def test_a_worker_that_ends_before_the_retry_is_the_end_of_the_reap(
    make: Callable[..., Rig], worker: int
) -> None:
    rig = make(reap=Answers(False))
    rig.acquire(worker, "x", after=1)
    rig.pass_time(1)
    assert len(rig.observer.of(ReapFailed)) == 1
    dropped(worker)
    rig.step()
    (killed,) = rig.observer.of(WorkerKilled)
    assert killed.outcome is Outcome.ALREADY_GONE
    assert rig.observer.of(WorkerExited) == []
    assert scopes(rig) == []
    rig.pass_time(100)
    assert len(rig.reaped) == 1


def test_a_worker_that_went_on_after_a_failed_reap_exits_as_any_other(
    make: Callable[..., Rig], worker: int
) -> None:
    rig = make(reap=Answers(False))
    rig.acquire(worker, "x", after=1)
    rig.pass_time(1)
    assert len(rig.observer.of(ReapFailed)) == 1
    rig.release(worker, "x")
    dropped(worker)
    rig.step()
    (exited,) = rig.observer.of(WorkerExited)
    assert exited.timers == ()
    assert rig.observer.of(WorkerKilled) == []


def test_a_sigkill_that_takes_effect_late_is_a_kill(
    make: Callable[..., Rig], worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As after an uninterruptible wait: the signal has gone out, and nothing happens yet.
    rig = make(policy=ReapPolicy(grace=0))
    rig.acquire(worker, "x", after=1)
    with monkeypatch.context() as patch:
        patch.setattr(Process, "exited", lambda self, timeout=0.0: False)  # noqa: ARG005  # the method's signature
        rig.pass_time(1)
    (failed,) = rig.observer.of(ReapFailed)
    assert failed.outcome is Outcome.STILL_ALIVE
    os.waitpid(worker, 0)
    rig.step()
    (killed,) = rig.observer.of(WorkerKilled)
    assert killed.outcome is Outcome.KILLED
    assert rig.observer.of(WorkerExited) == []


def test_what_expires_while_a_retry_waits_joins_it(make: Callable[..., Rig], worker: int) -> None:
    rig = make(reap=Answers(False))
    rig.acquire(worker, "x", after=1)
    rig.acquire(worker, "y", after=1.5)
    rig.pass_time(1)
    rig.pass_time(0.5)
    assert len(rig.reaped) == 1
    rig.pass_time(0.5)
    assert len(rig.reaped) == 2
    (killed,) = rig.observer.of(WorkerKilled)
    assert {timer.scope_id for timer, _ in killed.timers} == {"x", "y"}


def test_a_reap_that_is_not_permitted_is_tried_again(
    make: Callable[..., Rig], worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    rig = make()
    rig.acquire(worker, "x", after=1)
    with monkeypatch.context() as patch:
        patch.setattr(signal, "pidfd_send_signal", refused)
        rig.pass_time(1)
    (failed,) = rig.observer.of(ReapFailed)
    assert failed.outcome is Outcome.NOT_PERMITTED
    assert alive(worker)
    rig.pass_time(1)
    assert not alive(worker)
    assert [event.outcome for event in rig.observer.of(WorkerKilled)] == [Outcome.KILLED]


@pytest.mark.parametrize("error", [KeyError("mine"), SystemExit(3)], ids=repr)
def test_a_reap_that_raises_counts_as_done(
    make: Callable[..., Rig],
    worker: int,
    error: BaseException,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = make(reap=Answers(error))
    rig.acquire(worker, "x", after=1)
    with caplog.at_level(logging.ERROR):
        rig.pass_time(1)
    (killed,) = rig.observer.of(WorkerKilled)
    assert killed.outcome is Outcome.ERROR
    assert "counts as reaped" in caplog.text
    assert scopes(rig) == []
    rig.pass_time(100)
    assert len(rig.reaped) == 1


# -- the end --------------------------------------------------------------------------------------


def test_the_beginning_and_the_end_are_told(rig: Rig, worker: int) -> None:
    rig.watchdog.started("/tmp/pipe", 10.0)
    rig.acquire(worker, "x", after=10)
    rig.clock.advance(3)
    rig.watchdog.stopped()
    (started,) = rig.observer.of(WatchdogStarted)
    assert (started.address, started.max_interval_seconds) == ("/tmp/pipe", 10.0)
    (stopped,) = rig.observer.of(WatchdogStopped)
    ((who, timer, age),) = stopped.timers
    assert (who.pid, timer.scope_id) == (worker, "x")
    assert age == pytest.approx(3)


def test_what_runs_can_be_asked_for(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "slow", after=100)
    rig.acquire(worker, "fast", after=5)
    rig.clock.advance(6)
    running = rig.watchdog.state.running()
    assert [entry.timer.scope_id for entry in running] == ["fast", "slow"]
    assert [entry.age_seconds for entry in running] == pytest.approx([6, 6])
    assert [entry.remaining_seconds for entry in running] == pytest.approx([-1, 94])


def test_closing_gives_back_every_descriptor(worker: int) -> None:
    before = descriptors()
    rig = Rig()
    rig.acquire(worker, "x", after=10)
    assert descriptors() > before
    rig.close()
    rig.close()
    rig.watchdog.wake()
    assert descriptors() == before
    assert scopes(rig) == ["x"]  # the table stays readable


def test_requests_are_told_only_to_those_who_want_them(
    make: Callable[..., Rig], worker: int
) -> None:
    rig = make(wants_requests=False, reap=Answers())
    rig.acquire(worker, "x", after=10)
    rig.release(worker, "x")
    assert counts(rig) == (1, 1, 0, 0)
    assert rig.observer.names == []
    rig.acquire(worker, "x", after=1)
    rig.pass_time(1)
    assert rig.observer.names == ["timer expired", "kill worker process"]


def test_the_error_that_left_a_block_is_told(rig: Rig, worker: int) -> None:
    rig.acquire(worker, "x", after=10)
    rig.release(worker, "x", error="ValueError")
    assert [event.error for event in rig.observer.of(TimerReleased)] == ["ValueError"]
