"""The table of timers against a dictionary that does the same the slow way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from timers.server.table import _MIN_STALE, Timer, TimerTable

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS = st.sampled_from(["a", "b", "c"])
THREADS = st.sampled_from([None, 1, 2])
SCOPES = st.sampled_from(["x", "y", "z"])
TIMES = st.integers(0, 50)


def timer(
    worker: str = "a", scope: str = "x", deadline: int = 10, thread: int | None = None
) -> Timer[str]:
    return Timer(worker, scope, deadline_ns=deadline, acquired_ns=0, thread=thread)


class TableAgainstDictionary(RuleBasedStateMachine):
    """The model: a dictionary, and a list of all acquires for the order among equal deadlines."""

    def __init__(self) -> None:
        super().__init__()
        self.table: TimerTable[str] = TimerTable()
        self.model: dict[tuple[str, int | None, str], Timer[str]] = {}
        self.acquired: list[Timer[str]] = []
        self.expired: set[int] = set()
        self.marks: dict[int, list[int]] = {}
        self.now = 0

    @initialize()
    def begin_empty(self) -> None:
        assert len(self.table) == 0
        assert self.table.next_deadline() is None

    @rule(worker=WORKERS, thread=THREADS, scope=SCOPES, ahead=TIMES, marks=st.sets(TIMES))
    def acquire(
        self, worker: str, thread: int | None, scope: str, ahead: int, marks: set[int]
    ) -> None:
        added = timer(worker, scope, self.now + ahead, thread)
        added.checkpoints = tuple(self.now + mark for mark in sorted(marks) if mark < ahead)
        self.marks[id(added)] = list(added.checkpoints)
        self.acquired.append(added)
        assert self.table.acquire(added) is self.model.get((worker, thread, scope))
        self.model[worker, thread, scope] = added

    @rule(worker=WORKERS, thread=THREADS, scope=SCOPES)
    def release(self, worker: str, thread: int | None, scope: str) -> None:
        expected = self.model.pop((worker, thread, scope), None)
        assert self.table.release(worker, thread, scope) is expected

    @rule(worker=WORKERS)
    def remove_worker(self, worker: str) -> None:
        keys = [key for key in self.model if key[0] == worker]
        gone = [self.model.pop(key) for key in keys]
        assert {id(t) for t in self.table.remove_worker(worker)} == {id(t) for t in gone}
        assert all(t.worker != worker for t in self.table)

    @rule(passed=TIMES)
    def expire(self, passed: int) -> None:
        self.now += passed
        due = [
            t
            for t in self.acquired
            if t in self.model.values() and t.deadline_ns <= self.now and id(t) not in self.expired
        ]
        due.sort(key=lambda t: t.deadline_ns)  # stable: equal ones in the order of their acquires
        concerned = {
            t.worker
            for t in self.model.values()
            if not t.expired and min([*self.marks[id(t)], t.deadline_ns]) <= self.now
        }
        assert self.table.due(self.now) == concerned
        assert self.table.expired(self.now) == due
        assert all(t.expired for t in due)
        self.expired.update(id(t) for t in due)
        reached = []
        for t in self.model.values():
            marks = self.marks[id(t)]
            passed = sum(mark <= self.now for mark in marks)
            self.marks[id(t)] = marks[passed:]
            if id(t) not in self.expired:
                reached += [id(t)] * passed
        assert sorted(id(t) for t in self.table.take_reached()) == sorted(reached)
        assert self.table.take_reached() == []

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def churn(self, data: st.DataObject) -> None:
        """Heartbeat one timer so often that the heap has to be rebuilt on the way."""
        key = data.draw(st.sampled_from(sorted(self.model, key=repr)))
        for _ in range(_MIN_STALE + 10):
            self.acquire(*key, 40, {3})

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert len(self.table) == len(self.model)
        assert {id(t) for t in self.table} == {id(t) for t in self.model.values()}
        assert all(t.live for t in self.model.values())

    @invariant()
    def knows_the_next_deadline(self) -> None:
        waiting = [
            min([*self.marks[id(t)], t.deadline_ns]) for t in self.model.values() if not t.expired
        ]
        assert self.table.next_deadline() == min(waiting, default=None)

    @invariant()
    def remembers_little_of_the_dead(self) -> None:
        waiting = sum(not t.expired for t in self.model.values())
        entries = [*self.table._heap, *self.table._old_heap]
        assert len(entries) <= 4 * waiting + 2 * _MIN_STALE
        assert self.table._stale == sum(not entry[2].live for entry in entries)


TableAgainstDictionary.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestTableAgainstDictionary = pytest.mark.slow(TableAgainstDictionary.TestCase)


def test_equal_deadlines_expire_in_the_order_of_their_acquires() -> None:
    table: TimerTable[str] = TimerTable()
    names = [f"scope {number}" for number in range(100)]
    for name in names:
        table.acquire(timer(scope=name))
    assert [t.scope_id for t in table.expired(10)] == names


def test_a_timer_is_due_at_its_deadline_and_not_before() -> None:
    table: TimerTable[str] = TimerTable()
    table.acquire(timer(deadline=10))
    assert table.expired(9) == []
    assert len(table.expired(10)) == 1
    assert table.expired(11) == []


def test_an_expired_timer_stays_until_it_is_released() -> None:
    table: TimerTable[str] = TimerTable()
    table.acquire(timer())
    (due,) = table.expired(10)
    assert list(table) == [due]
    assert table.next_deadline() is None
    assert table.release("a", None, "x") is due
    assert list(table) == []


def test_checkpoints_are_reached_before_the_deadline_and_once() -> None:
    table: TimerTable[str] = TimerTable()
    watched = timer(deadline=10)
    watched.checkpoints = (3, 6)
    table.acquire(watched)
    assert table.next_deadline() == 3
    assert (table.expired(3), table.take_reached()) == ([], [watched])
    assert (table.expired(5), table.take_reached()) == ([], [])
    assert (table.expired(6), table.take_reached()) == ([], [watched])
    assert table.next_deadline() == 10
    assert (table.expired(10), table.take_reached()) == ([watched], [])


def test_who_is_gone_by_then_has_reached_nothing() -> None:
    table: TimerTable[str] = TimerTable()
    for scope in ("released", "kept"):
        watched = timer(scope=scope)
        watched.checkpoints = (3,)
        table.acquire(watched)
    assert table.expired(5) == []
    table.release("a", None, "released")
    assert [t.scope_id for t in table.take_reached()] == ["kept"]


def test_a_heartbeat_replaces_the_timer_and_its_deadline() -> None:
    table: TimerTable[str] = TimerTable()
    first, second = timer(deadline=10), timer(deadline=20)
    assert table.acquire(first) is None
    assert table.acquire(second) is first
    assert (first.live, second.live) == (False, True)
    assert table.expired(19) == []
    assert table.expired(20) == [second]


def test_threads_have_timers_of_their_own_and_a_request_without_thread_another() -> None:
    table: TimerTable[str] = TimerTable()
    for thread in (None, 1, 2):
        assert table.acquire(timer(thread=thread)) is None
    assert len(table) == 3
    assert table.release("a", 1, "x") is not None
    assert [t.thread for t in table] == [None, 2]


def test_a_scope_that_looks_like_a_thread_and_a_scope_is_another_key() -> None:
    # The keys are a string or a tuple: no string can be taken for (1, "x").
    table: TimerTable[str] = TimerTable()
    table.acquire(timer(thread=1, scope="x"))
    assert table.acquire(timer(scope="(1, 'x')")) is None
    assert len(table) == 2


def leftovers(act: Callable[[TimerTable[str], int], None], rounds: int) -> int:
    table: TimerTable[str] = TimerTable()
    for number in range(rounds):
        act(table, number)
    return len(table._heap)


def test_released_timers_do_not_pile_up() -> None:
    def block(table: TimerTable[str], number: int) -> None:
        table.acquire(timer(deadline=1_000_000 + number))
        assert table.release("a", None, "x") is not None

    assert 0 < leftovers(block, 100) <= _MIN_STALE + 1
    assert leftovers(block, 20_000) <= _MIN_STALE + 1


def test_heartbeats_do_not_pile_up() -> None:
    def beat(table: TimerTable[str], number: int) -> None:
        table.acquire(timer(deadline=1_000_000 + number))

    assert leftovers(beat, 20_000) <= _MIN_STALE + 2


def test_removed_workers_do_not_pile_up() -> None:
    def live_and_die(table: TimerTable[str], number: int) -> None:
        for scope in "abcdefgh":
            table.acquire(timer(worker=str(number), scope=scope, deadline=1_000_000))
        assert len(table.remove_worker(str(number))) == 8

    assert leftovers(live_and_die, 1_000) <= _MIN_STALE + 8


def test_the_order_survives_a_rebuild() -> None:
    table: TimerTable[str] = TimerTable()
    for number in range(3 * _MIN_STALE):
        table.acquire(timer(scope=str(number), deadline=3 * _MIN_STALE - number))
    kept = [str(number) for number in range(0, 3 * _MIN_STALE, 7)]
    for number in range(3 * _MIN_STALE):
        if str(number) not in kept:
            table.release("a", None, str(number))
    assert len(table._heap) < 3 * _MIN_STALE
    due = []
    while (deadline := table.next_deadline()) is not None:
        due += [t.scope_id for t in table.expired(deadline)]
    assert due == kept[::-1]
