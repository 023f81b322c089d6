"""Worker and server of a board, interleaved step by step: is :mod:`timers.transport.board` right?

The worker is ``expires`` itself, on real shared memory. Its stores go through a store buffer, as on
a processor: they arrive later, in their order (x86-64) or in any order but that of two to the same
word (aarch64), all of them within half of the moment that the server allows for. The worker may be
preempted at any of its loads and stores, for any time, and the server in the middle of a look.

``TIMERS_TEST_INTERLEAVINGS`` is how many examples are tried (30 by default, of 40 steps each).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support.board_worker import BoardWorker, use_clock
from timers import expires
from timers.server.boards import _board, _counts
from timers.server.boards.registry import Boards
from timers.server.statistics import Statistics
from timers.server.workers import Worker
from timers.transport import board
from timers.transport.board import DEPTH, MOMENT_NS, NONE

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = int(os.environ.get("TIMERS_TEST_INTERLEAVINGS", "30"))
NS = 1_000_000_000
START_NS = 1_000 * NS
ARRIVES_NS = MOMENT_NS // 2
AFTERS = (0.0, 0.0003, 0.001, 0.02, 0.999, 1.0, 60.0)
PAUSES_NS = (1, MOMENT_NS // 3, MOMENT_NS + 1, 5 * MOMENT_NS, NS)
SCOPES = ("a", "b", "c")
NOTICED_NS = 5 * MOMENT_NS
"""A look when it is due, one a moment later, and as much again for a store that is on its way."""

pauses = st.lists(st.sampled_from((0, 0, 0, *PAUSES_NS)), max_size=6)
choices = st.lists(st.integers(0, 9), max_size=12)


class Clock:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.now_ns = START_NS

    def monotonic_ns(self) -> int:
        return self.now_ns

    def time(self) -> float:
        return self.now_ns / NS


class Stores:
    """A view of shared memory through the store buffer of one processor."""

    def __init__(self, memory: memoryview, clock: Clock) -> None:
        self.memory = memory
        self.waiting: list[tuple[int, int, int]] = []
        """Index, value and time of each store that has not arrived."""
        self.keeps_order = True
        self.before_access: Callable[[], None] = lambda: None
        self.on_store: Callable[[int, int], None] = lambda _index, _value: None
        self._clock = clock

    def __getitem__(self, index: int) -> int:
        self.before_access()
        return self.value(index)

    def __setitem__(self, index: int, value: int) -> None:
        self.before_access()
        self.on_store(index, value)
        self.waiting.append((index, value, self._clock.now_ns))

    def value(self, index: int) -> int:
        """Return what this processor sees, its own stores included."""
        for known, value, _ in reversed(self.waiting):
            if known == index:
                return value
        return int(self.memory[index])

    def arrive(self, choice: int = 0) -> None:
        """Have one store arrive."""
        if not self.waiting:
            return
        at = 0 if self.keeps_order else choice % len(self.waiting)
        index = self.waiting[at][0]
        at = next(n for n, (other, _, _) in enumerate(self.waiting) if other == index)
        _, value, _ = self.waiting.pop(at)
        self.memory[index] = value

    def arrive_until(self, now_ns: int) -> None:
        """Have arrive what cannot be on its way any longer."""
        while self.waiting and self.waiting[0][2] + ARRIVES_NS <= now_ns:
            self.arrive()

    def drain(self) -> None:
        """Have all arrive."""
        while self.waiting:
            self.arrive()


class Looked:
    """The server's view, which lets others act before each access."""

    def __init__(self, memory: memoryview, before_access: Callable[[], None]) -> None:
        self._memory = memory
        self._before_access = before_access

    def __getitem__(self, index: Any) -> Any:
        self._before_access()
        return self._memory[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._before_access()
        self._memory[index] = value


class Client(BoardWorker):
    """A worker whose slots write through one store buffer."""

    stores: Stores

    def words(self, view: Any) -> Any:
        del view
        return self.stores


class Interleaved(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.clock = Clock()
        use_clock(self.patch, self.clock)
        # In Python, so that something can come between any two words that are read.
        self.patch.setattr(_board, "_least", _board.least)
        self.patch.setattr(_counts, "time", self.clock)
        self.statistics = Statistics()
        self.boards = Boards(self.clock, self.statistics)
        self.worker = Worker(1_000_000, None)
        self.client = Client(self._wake, board.Layout(8))
        own = self.client.own
        self.client.stores = self.stores = Stores(own.words, self.clock)
        self.layout = own.layout
        self.boards.accept(self.worker, self.client.descriptor())
        [self.watched] = self.boards._watched
        self.watched.board.words = Looked(self.watched.board.words, self._before_look)  # type: ignore[assignment]  # as good as one
        self.stores.before_access = self._before_access
        self.stores.on_store = self._note
        self.open: dict[str, list[expires]] = {scope: [] for scope in SCOPES}
        self.acquires = self.releases = 0
        self.wakes = 0
        self.looking = False
        self.resumed_ns = 0
        """When the server or the worker last went on."""
        self.pauses: list[int] = []
        self.choices: list[int] = []
        self.history: dict[int, list[list[int]]] = {}
        """By slot: state, since when, until when, and every deadline it had."""
        self.noticed: set[tuple[int, int]] = set()

    @initialize(
        keeps_order=st.booleans(),
        is_warm=st.booleans(),
        afters=st.lists(st.sampled_from(AFTERS), min_size=1, max_size=2),
    )
    def set_up(self, keeps_order: bool, is_warm: bool, afters: list[float]) -> None:
        self.stores.keeps_order = keeps_order
        self.afters = afters
        if is_warm:
            self.client.uses = dict.fromkeys(SCOPES, board.WARM_UP_USES)
        self._look()

    # -- who acts when ------------------------------------------------------------------------

    def _before_access(self) -> None:
        """Preempt the worker, perhaps."""
        if self.pauses and not self.looking:
            pause = self.pauses.pop()
            if pause:
                self._pass(pause)
                self.resumed_ns = self.clock.now_ns  # it may have had a wake-up to send

    def _before_look(self) -> None:
        """Let the worker, or its stores, go on in the middle of a look."""
        if self.choices:
            choice = self.choices.pop()
            if choice < 6:
                self.stores.arrive(choice)
            else:
                self._act(SCOPES[choice % 3], choice)

    def _act(self, scope: str, after: int) -> None:
        if self.open[scope]:
            self._leave(scope)
        else:
            self._enter(scope, after)

    def _enter(self, scope: str, after: int) -> None:
        block = expires(self.afters[after % len(self.afters)], scope, self.client)
        block.__enter__()
        self.open[scope].append(block)
        self.acquires += 1

    def _leave(self, scope: str) -> None:
        block = self.open[scope].pop()
        block.__exit__(None, None, None)
        self.releases += 1

    def _note(self, index: int, value: int) -> None:
        """Keep what each slot was like, in the order of the program."""
        now, layout = self.clock.now_ns, self.layout
        if layout.states <= index < layout.leads:
            number = index - layout.states
            known = self.history.setdefault(number, [])
            if known:
                known[-1][2] = now
            known.append([value, now, NONE, self.stores.value(layout.deadlines + number)])
        elif layout.deadlines <= index < layout.states:
            number = index - layout.deadlines
            if known := self.history.get(number, []):
                known[-1].append(value)

    def _wake(self) -> None:
        # The message is sent by a system call, whose end sees all stores arrived.
        self.stores.drain()
        self.wakes += 1

    # -- the server ---------------------------------------------------------------------------

    def _pass(self, duration_ns: int) -> None:
        """Let time pass for all, the server looking whenever that is due."""
        end = self.clock.now_ns + duration_ns
        while True:
            self._deliver()
            due = self.boards.next_deadline()
            if due is None or due > end:
                break
            self._sleep_until(max(self.clock.now_ns, due))
            self._look()
        self._sleep_until(end)

    def _sleep_until(self, end: int) -> None:
        self.clock.now_ns = end
        self.stores.arrive_until(end)

    def _deliver(self) -> None:
        while self.wakes:
            self.wakes = 0
            self.boards.wake(self.worker)
            self._look()

    def _look(self) -> None:
        self.looking = True
        now = self.clock.now_ns
        for timer in self.boards.expired(now):
            number, state = timer.number, timer.state  # type: ignore[attr-defined]  # of a board
            assert (number, state) not in self.noticed, "noticed twice"
            self.noticed.add((number, state))
            [found] = [each for each in self.history[number] if each[0] == state]
            _, _, until, *deadlines = found
            assert timer.deadline_ns <= now, "not due"
            assert timer.deadline_ns in deadlines, "a deadline that the block never had"
            assert until > timer.deadline_ns, "it was left in time"
        self.looking = False

    # -- rules --------------------------------------------------------------------------------

    @rule(scope=st.sampled_from(SCOPES), after=st.integers(0, 1), pauses=pauses)
    def enter(self, scope: str, after: int, pauses: list[int]) -> None:
        self.pauses = pauses
        self._enter(scope, after)
        self.pauses = []

    @precondition(lambda self: any(self.open.values()))
    @rule(data=st.data(), pauses=pauses)
    def leave(self, data: st.DataObject, pauses: list[int]) -> None:
        scope = data.draw(st.sampled_from([scope for scope in SCOPES if self.open[scope]]))
        self.pauses = pauses
        self._leave(scope)
        self.pauses = []

    @precondition(lambda self: any(self.open.values()))
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        """The end of the block object is the end of its block."""
        scope = data.draw(st.sampled_from([scope for scope in SCOPES if self.open[scope]]))
        self.open[scope].pop()
        self.releases += 1

    @rule(choice=st.integers(0, 9))
    def arrive(self, choice: int) -> None:
        self.stores.arrive(choice)

    @rule(choices=choices)
    def look(self, choices: list[int]) -> None:
        """Look without any reason, and be interrupted."""
        self.choices = choices
        self._look()
        self.choices = []

    @rule(choices=choices)
    def count(self, choices: list[int]) -> None:
        self.choices = choices
        self.boards.count()
        self.choices = []
        found = self.statistics.scopes.values()
        assert sum(scope.acquires for scope in found) <= self.acquires
        assert sum(scope.releases for scope in found) <= self.releases

    @rule(duration=st.sampled_from((*PAUSES_NS, 61 * NS)))
    def pass_time(self, duration: int) -> None:
        self._pass(duration)
        self._assert_all_noticed()

    @rule(duration=st.sampled_from(PAUSES_NS))
    def stop_the_server(self, duration: int) -> None:
        self._sleep_until(self.clock.now_ns + duration)
        self.resumed_ns = self.clock.now_ns

    def _assert_all_noticed(self) -> None:
        now = self.clock.now_ns
        for number, known in self.history.items():
            state, since, until, *_ = known[-1]
            deadline = self.stores.value(self.layout.deadlines + number)
            noticed_by = max(deadline, since, self.resumed_ns) + NOTICED_NS
            if state & DEPTH and until == NONE and now > noticed_by:
                assert (number, state) in self.noticed, "a hang that nobody noticed"

    def teardown(self) -> None:
        try:
            self._pass(NS)
            self._pass(100 * NS)
            self._assert_all_noticed()
            for scope in SCOPES:
                while self.open[scope]:
                    self._leave(scope)
            for _ in range(3):
                self._sleep_until(self.clock.now_ns + MOMENT_NS)
                self.boards.count()
            found = list(self.statistics.scopes.values())
            assert sum(scope.acquires for scope in found) == self.acquires
            assert sum(scope.releases for scope in found) == self.releases
            assert sum(scope.active for scope in found) == 0
            if self.stores.keeps_order:
                assert sum(sum(scope.durations.counts) for scope in found) == self.releases
            assert self.boards.take_refused() == []
        finally:
            self.client.close()
            self.patch.undo()


@pytest.mark.timeout(120 + EXAMPLES)
def test_no_order_of_events_kills_who_left_in_time_or_misses_who_did_not() -> None:
    run_state_machine_as_test(
        Interleaved,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
