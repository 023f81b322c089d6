"""Slots that send messages: a server that misses some of them knows in the end how things stand."""

from __future__ import annotations

import errno
import gc
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.account import Account
from support.children import waiting
from support.rig import Rig
from support.waiting import eventually
from timers import expires
from timers.errors import NoServerError
from timers.transport.wire import Decoder, Message
from timers.worker._client_slots import ClientWithSlots
from timers.worker._lines import Lines
from timers.worker.slots import messages
from timers.worker.slots.messages import Channel, MessageSlot
from timers.worker.slots.slot import AFTER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from timers.transport.receipt import Receipt
    from timers.worker.slots.request import Request
    from timers.worker.slots.slot import Slot


class Wire(Channel):
    """A transport with as much room as a test gives it."""

    def __init__(self, *, raises: bool = True) -> None:
        self.failures: list[Exception] = []
        super().__init__(None if raises else self.failures.append, full_timeout=0.0)
        self.room: float = float("inf")
        """For how many messages there is room."""
        self.error: Exception | None = None
        """What everything raises."""
        self.messages: list[Message] = []
        self._lines = Lines(9)

    def write(self, request: Request, receipt: Receipt, totals: tuple[int, int]) -> None:
        line = self._lines.encode(request)
        if self.error is not None:
            raise self.error
        if not self.room:
            raise BlockingIOError(errno.EAGAIN, "full")
        self.room -= 1
        receipt.sent = totals
        found, rejections = Decoder().feed(line)
        assert rejections == []
        self.messages += found

    def wait_for_room(self, seconds: float) -> bool:
        # Whoever waits lets others go on, so that threads that send later do not spin.
        threading.Event().wait(min(seconds, 0.001))
        return self.error is None

    def lose_server(self) -> None:
        """Have another server, which knows nothing yet."""
        for slot in self.slots.members():
            if slot.is_needed:
                self.unsent[slot] = None


class Client(ClientWithSlots):
    """Sends over a wire."""

    def __init__(self, wire: Wire | None = None) -> None:
        self.wire = wire or Wire()
        super().__init__()

    def _make_slot(self, scope: str, thread: int) -> Slot:
        return MessageSlot(self.wire, scope, thread)


def missed(wire: Wire) -> list[tuple[int, int] | None]:
    return [message.missed for message in wire.messages]


def caught_up(wire: Wire) -> bool:
    sender = wire._sender
    return not wire.unsent and (sender is None or not sender.is_alive())


# -- a server that misses messages -----------------------------------------------------------------


def test_what_there_is_room_for_is_sent_as_it_happens() -> None:
    client = Client()
    with expires(60, "x", client), expires(50, "x", client):
        pass
    assert missed(client.wire) == [None] * 4
    assert not client.wire.unsent


def test_what_piles_up_is_one_message_with_the_counts_of_all() -> None:
    client = Client()
    with expires(60, "x", client):
        client.wire.room = 0
    for _ in range(100):
        with expires(60, "x", client):
            pass
    client.wire.room = float("inf")
    eventually(lambda: caught_up(client.wire))
    assert missed(client.wire) == [None, (100, 101)]
    assert client.wire.messages[-1].expiration_time == -1


def test_a_block_that_an_interrupt_kept_from_being_sent_is_sent_when_it_is_left_again() -> None:
    client = Client()
    block = expires(60, "x", client)
    block.__enter__()
    client.wire.error = KeyError("mine")  # raised by a signal handler, say
    with pytest.raises(KeyError):
        client.slot("x").leave(-0x10001, None)
    assert len(client.wire.messages) == 1
    client.wire.error = None
    block.__exit__(None, None, None)
    assert [message.expiration_time < 0 for message in client.wire.messages] == [False, True]


def test_what_an_interrupt_kept_from_being_sent_is_made_up_for_by_the_next_block() -> None:
    client = Client()
    for enters in (True, False):
        block = expires(60, "x", client)
        if not enters:
            block.__enter__()
        client.wire.error = KeyboardInterrupt()  # type: ignore[assignment]  # raised all the same
        with pytest.raises(KeyboardInterrupt):
            block.__enter__() if enters else block.__exit__(None, None, None)
        client.wire.error = None
    with expires(60, "x", client):
        pass
    account = Account()
    account.take(client.wire.messages)
    slot = client.slot("x")
    assert isinstance(slot, MessageSlot)
    assert account.totals == slot.totals
    assert account.open == set()


def test_who_cannot_be_reached_is_raised_once_and_nothing_stays_behind() -> None:
    client = Client()
    with expires(60, "y", client):
        client.wire.room = 0
    client.wire.error = NoServerError(errno.ENOENT, "nobody")
    eventually(lambda: caught_up(client.wire))
    with pytest.raises(NoServerError):
        expires(60, "x", client).__enter__()
    client.wire.error, client.wire.room = None, float("inf")
    with expires(60, "x", client):
        pass
    assert [m.scope_id for m in client.wire.messages] == ["y", "x", "x"]
    assert missed(client.wire)[1:] == [None, None]


def test_failing_open_counts_each_failure() -> None:
    wire = Wire(raises=False)
    client = Client(wire)
    wire.error = NoServerError(errno.ENOENT, "nobody")
    for _ in range(3):
        with expires(60, "x", client):
            pass
    assert len(wire.failures) == 6
    assert wire.messages == []


def test_without_a_thread_to_be_had_each_call_waits_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(thread: threading.Thread) -> None:
        raise RuntimeError(f"can't start new thread: {thread}")

    client = Client()
    with expires(60, "x", client):
        client.wire.room = 0
        monkeypatch.setattr(threading.Thread, "start", refuses)
        waits = 0

        def wait_for_room(seconds: float) -> bool:
            nonlocal waits
            assert seconds > 0
            waits += 1
            if waits == 3:
                client.wire.room = 1
            return True

        monkeypatch.setattr(client.wire, "wait_for_room", wait_for_room)
    assert waits == 3
    assert missed(client.wire) == [None, (0, 1)]


def test_a_thread_that_was_started_ahead_sends_where_none_is_to_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client()
    client.wire.prepare()

    def refuses(thread: threading.Thread) -> None:
        raise RuntimeError(f"can't start new thread: {thread}")

    with expires(60, "x", client):
        client.wire.room = 0
        monkeypatch.setattr(threading.Thread, "start", refuses)
    assert len(client.wire.messages) == 1
    client.wire.room = 1
    eventually(lambda: not client.wire.unsent)
    assert missed(client.wire) == [None, (0, 1)]


def test_a_slot_lives_as_long_as_it_has_something_to_send() -> None:
    client = Client()
    with expires(60, "x", client):
        client.wire.room = 0
    wire = client.wire
    del client
    gc.collect()
    assert len(wire.slots.members()) == 1
    wire.room = 1
    eventually(lambda: caught_up(wire))
    gc.collect()
    assert wire.slots.members() == []


def test_the_bound_grows_with_what_cannot_be_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_MOST_UNSENT", 10)
    client = Client()
    client.wire._most_unsent = 10
    client.wire.room = 0
    blocks = [expires(60, f"x {number}", client) for number in range(50)]
    for block in blocks:
        block.__enter__()
    assert len(client.wire.unsent) == 50
    client.wire.room = float("inf")
    eventually(lambda: caught_up(client.wire))
    assert len({m.scope_id for m in client.wire.messages if m.expiration_time > 0}) == 50
    for block in blocks:
        block.__exit__(None, None, None)


# -- whatever happens ------------------------------------------------------------------------------


class Play:
    """A worker, its servers, and what these have counted in all."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._rig = Rig()
        self._blocks: list[expires] = []
        self.client = Client()
        self.wire = self.client.wire
        self.wire._start_sender = lambda: True  # type: ignore[method-assign]  # it is done here
        self.counts: Counter[str] = Counter()

    def enter(self) -> None:
        self._blocks.append(expires(60, "x", self.client))
        self._blocks[-1].__enter__()

    def leave(self, which: int = -1) -> None:
        if self._blocks:
            self._blocks.pop(which).__exit__(None, None, None)

    def leave_first(self) -> None:
        self.leave(0)

    def acquire(self) -> None:
        self.client.acquire("x", 3e9)

    def release(self) -> None:
        self.client.release("x")
        self._blocks.clear()

    def full(self) -> None:
        self.wire.room = 0

    def one(self) -> None:
        self.wire.room += 1

    def empty(self) -> None:
        self.wire.room = float("inf")

    def lose(self) -> None:
        self.read()
        for scope in self._rig.watchdog.statistics.scopes.values():
            self.counts.update(acquires=scope.acquires, releases=scope.releases)
        self._rig.close()
        self._rig = Rig()
        self.wire.lose_server()

    def read(self) -> None:
        self._rig.clock._monotonic_ns = time.monotonic_ns()  # which the messages go by
        messages = [m._replace(pid=self._pid, start_time=None) for m in self.wire.messages]
        self._rig.watchdog.apply(messages)
        self.wire.messages.clear()

    @property
    def countdowns(self) -> list[int]:
        """Of what the server takes for open, whose clock is another one than the worker's."""
        return [timer.deadline_ns - timer.acquired_ns for timer in self._rig.watchdog.state.table]

    def end(self) -> None:
        while self._blocks:
            self.leave()
        self._rig.close()


STEPS = (
    Play.enter,
    Play.leave,
    Play.leave_first,
    Play.acquire,
    Play.release,
    Play.full,
    Play.one,
    Play.empty,
    Play.lose,
)


@pytest.fixture(scope="module")
def pid() -> Iterator[int]:
    with waiting() as pid:
        yield pid


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(STEPS), max_size=40))
def test_a_server_knows_in_the_end_how_things_stand(
    pid: int, steps: list[Callable[[Play], None]]
) -> None:
    play = Play(pid)
    for step in steps:
        step(play)
    play.empty()
    assert play.wire.catch_up()
    slot = play.client.slot("x")
    assert isinstance(slot, MessageSlot)
    assert slot.sent == slot.totals
    play.read()
    after_ns = slot.view[messages._INFO + AFTER]
    assert play.countdowns == ([pytest.approx(after_ns, rel=1e-6)] if slot.is_needed else [])
    play.lose()
    assert (play.counts["acquires"], play.counts["releases"]) == slot.totals
    play.end()
