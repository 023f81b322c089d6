"""Requests of workers whose clocks are others than the server's, or are not known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.children import waiting
from support.rig import Rig
from timers.events import TimerExpired
from timers.linux import procfs
from timers.transport.wire import Message

if TYPE_CHECKING:
    from collections.abc import Iterator

NS = 10**9
AFTER = 30.0


@pytest.fixture
def worker() -> Iterator[int]:
    with waiting() as pid:
        yield pid


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(reap=lambda pid, signal: True)  # noqa: ARG005  # torch's signature
    yield rig
    rig.close()


def skewed(monkeypatch: pytest.MonkeyPatch, seconds: float | None) -> None:
    skew = None if seconds is None else (round(seconds * NS), 0)
    monkeypatch.setattr(procfs, "clock_skew", lambda _pid: skew)


def acquire(rig: Rig, pid: int, *, ahead: float, wall_ahead: float = 0.0, ago: float = 0.0) -> None:
    """An acquire of 30 s that was sent some time ago, by clocks that are ahead of the server's."""
    sent_ns = rig.clock.monotonic_ns() + round((ahead - ago) * NS)
    wall = rig.clock.time() + wall_ahead - ago + AFTER
    deadline_ns = sent_ns + round(AFTER * NS)
    rig.watchdog.apply([Message(pid, "x", wall, 9, thread=1, deadline_ns=deadline_ns, after=AFTER)])


def expires_after(rig: Rig) -> float:
    """How many seconds from now on the timer expires."""
    [timer] = rig.watchdog.state.table
    return (timer.deadline_ns - rig.clock.monotonic_ns()) / NS


@pytest.mark.parametrize("ago", [0.0, 3.0])
@pytest.mark.parametrize("ahead", [-1000.0, -0.5, 0.5, 5000.0])
def test_a_clock_that_is_known_to_be_ahead_or_behind_is_translated(
    rig: Rig, worker: int, monkeypatch: pytest.MonkeyPatch, ahead: float, ago: float
) -> None:
    skewed(monkeypatch, ahead)
    acquire(rig, worker, ahead=ahead, ago=ago)
    assert expires_after(rig) == pytest.approx(AFTER - ago)
    rig.pass_time(AFTER - ago - 0.001)
    assert rig.observer.of(TimerExpired) == []
    rig.pass_time(0.001)
    (expired,) = rig.observer.of(TimerExpired)
    assert expired.elapsed_seconds == pytest.approx(AFTER)


@pytest.mark.parametrize("ahead", [-1000.0, -3.0, 0.0, 2.0, 5000.0])
def test_what_may_not_be_read_is_made_up_for_by_the_clock_on_the_wall(
    rig: Rig, worker: int, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    skewed(monkeypatch, None)
    acquire(rig, worker, ahead=ahead, ago=1.0)
    # Of two clocks that disagree, the one that gives the block more time: a second at most here.
    assert AFTER - 1 <= round(expires_after(rig), 6) <= AFTER


@pytest.mark.parametrize("wall_ahead", [-86400.0, -3.0, 3.0, 86400.0])
@pytest.mark.parametrize("ahead", [-1000.0, 0.0, 5000.0])
def test_both_clocks_may_be_others(
    rig: Rig, worker: int, monkeypatch: pytest.MonkeyPatch, ahead: float, wall_ahead: float
) -> None:
    skewed(monkeypatch, None)
    acquire(rig, worker, ahead=ahead, wall_ahead=wall_ahead)
    assert expires_after(rig) <= AFTER
    if wall_ahead >= 0 or ahead >= 0:  # by one of them it has just been sent
        assert expires_after(rig) == pytest.approx(AFTER)


def test_a_worker_that_moves_to_another_namespace_is_found_out(
    rig: Rig, worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire(rig, worker, ahead=0.0)
    assert expires_after(rig) == pytest.approx(AFTER)
    skewed(monkeypatch, 5000.0)  # setns(2)
    for _ in range(2):  # the first one by its being sent later than now
        acquire(rig, worker, ahead=5000.0)
        assert expires_after(rig) == pytest.approx(AFTER)


def test_what_was_sent_later_than_now_was_sent_now(rig: Rig, worker: int) -> None:
    acquire(rig, worker, ahead=5000.0)
    assert expires_after(rig) == pytest.approx(AFTER)


def test_a_start_time_by_another_clock_is_recognized(
    rig: Rig, worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = procfs.start_time(worker)
    assert began is not None
    monkeypatch.setattr(procfs, "clock_skew", lambda _pid: (0, 77 * NS))
    its_own = began + 77 * procfs.TICKS_PER_SECOND
    rig.acquire(worker, "x", after=1, start_time=its_own)
    rig.acquire(worker, "y", after=1, start_time=its_own)
    assert sorted(timer.scope_id for timer in rig.watchdog.state.table) == ["x", "y"]
    for other in (its_own + 2, began, began - 77 * procfs.TICKS_PER_SECOND):
        rig.acquire(worker, "z", after=1, start_time=other)
    assert rig.watchdog.statistics.rejected["identity_mismatch"] == 3
    [known] = rig.watchdog.known_workers()
    assert known.start_time == began  # by the clock of who reads of it
