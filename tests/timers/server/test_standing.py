"""What a server makes of timers that are told again: how they stand, since when, and the counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.children import waiting
from support.rig import Rig
from timers.events import TimerAcquired, TimerExpired, TimerReleased
from timers.transport.wire import Decoder, Message

if TYPE_CHECKING:
    from collections.abc import Iterator

NS = 1_000_000_000


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


@pytest.fixture
def pid() -> Iterator[int]:
    with waiting() as pid:
        yield pid


def again(
    rig: Rig, pid: int, remaining: float, *, after: float = 10.0, nested: bool = False
) -> Message:
    """An acquire that is told again, of a block of ``after`` seconds with so many left."""
    deadline_ns = rig.clock.monotonic_ns() + int(remaining * NS)
    return Message(
        pid,
        "x",
        1.0,
        0,
        thread=1,
        deadline_ns=deadline_ns,
        after=after,
        nested=nested,
        missed=(0, 0),
    )


def test_its_deadline_is_the_old_one(rig: Rig, pid: int) -> None:
    rig.watchdog.apply([again(rig, pid, 4.0)])
    [running] = rig.watchdog.state.running()
    assert running.remaining_seconds == pytest.approx(4.0)
    assert running.age_seconds == pytest.approx(6.0)
    assert running.timer.after_seconds == pytest.approx(10.0)


def test_a_deadline_that_has_passed_leaves_time_for_a_release_under_way(rig: Rig, pid: int) -> None:
    rig.watchdog.apply([again(rig, pid, -3.0)])
    [running] = rig.watchdog.state.running()
    assert running.age_seconds == pytest.approx(13.0)
    rig.pass_time(0.4)
    assert rig.observer.of(TimerExpired) == []
    rig.pass_time(0.2)
    assert len(rig.observer.of(TimerExpired)) == 1


def test_a_release_that_follows_is_in_time(rig: Rig, pid: int) -> None:
    rig.watchdog.apply([again(rig, pid, -3.0)])
    rig.pass_time(0.4)
    rig.release(pid, "x")
    rig.pass_time(60)
    assert rig.observer.of(TimerExpired) == []
    assert rig.watchdog.state.running() == []


def test_it_counts_what_was_missed_and_not_itself(rig: Rig, pid: int) -> None:
    rig.watchdog.apply([again(rig, pid, 4.0)._replace(missed=(3, 2))])
    scope = rig.watchdog.statistics.scopes["x"]
    assert (scope.acquires, scope.releases, scope.active) == (3, 2, 1)
    rig.watchdog.apply([again(rig, pid, 4.0)])
    assert (scope.acquires, scope.releases, scope.active) == (3, 2, 1)
    rig.watchdog.apply([Message(pid, "x", -1, 0, thread=1, missed=(5, 6))])
    assert (scope.acquires, scope.releases, scope.active) == (8, 8, 0)
    assert sum(scope.durations.counts) == 1


def test_it_is_news_to_a_server_that_did_not_know_it(rig: Rig, pid: int) -> None:
    rig.observer.wants_requests = True
    rig.watchdog.apply([again(rig, pid, 4.0)])
    rig.watchdog.apply([again(rig, pid, 4.0)])
    assert len(rig.observer.of(TimerAcquired)) == 1


def test_blocks_in_blocks_are_built_up_again(rig: Rig, pid: int) -> None:
    blocks = [again(rig, pid, 4.0), again(rig, pid, 9.0, nested=True)]
    for _ in range(2):  # to the same server twice changes nothing
        rig.watchdog.apply(blocks)
        [running] = rig.watchdog.state.running()
        assert running.age_seconds == pytest.approx(1.0)
    leave = again(rig, pid, 10.0)._replace(missed=None, leave=True)
    rig.watchdog.apply([leave])
    [running] = rig.watchdog.state.running()
    assert running.age_seconds == pytest.approx(6.0)  # of the outer block
    rig.release(pid, "x")
    assert rig.watchdog.state.running() == []


def test_what_is_known_by_its_count_alone_is_counted_as_lost(rig: Rig, pid: int) -> None:
    entered = again(rig, pid, 4.0)
    rig.watchdog.apply([entered._replace(missed=(7, 6))])  # the last one is open
    rig.watchdog.apply([entered._replace(missed=(3, 4), expiration_time=-1.0)])
    counts = rig.watchdog.statistics
    assert (counts.scopes["x"].acquires, counts.scopes["x"].releases) == (10, 10)
    assert [type(event) for event in rig.observer.events] == [TimerAcquired, TimerReleased]
    assert (counts.lost_acquires, counts.lost_releases) == (9, 9)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1", "wrong_type"),
        ("[1]", "wrong_type"),
        ("[1, true]", "wrong_type"),
        ("[1.0, 2]", "wrong_type"),
        ("[-1, 2]", "out_of_range"),
        ("[1, 2147483648]", "out_of_range"),
    ],
)
def test_counts_that_are_none_are_refused(text: str, reason: str) -> None:
    line = '{"pid": 2, "scope_id": "x", "expiration_time": 1, "signal": 9, "missed": %s}\n'
    messages, [rejection] = Decoder().feed((line % text).encode())
    assert messages == []
    assert rejection.reason == reason
    [message], _ = Decoder().feed((line % "[1, 2]").encode())
    assert message.missed == (1, 2)
