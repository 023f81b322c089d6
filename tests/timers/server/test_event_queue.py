"""Dispatcher and Observers: nothing a receiver does reaches the one who emits."""

from __future__ import annotations

import gc
import logging
import math
import os
import threading
import weakref
from typing import TYPE_CHECKING

import pytest

from support.samples import TIMER, WORKER, expired
from support.sinks import BlockingSink, RaisingSink, RecordingSink
from support.waiting import eventually
from timers.events import TimerAcquired
from timers.server.observers.event_queue import Dispatcher, Observers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timers.events import Event

ACQUIRED = TimerAcquired(timestamp=1.0, worker=WORKER, timer=TIMER)


@pytest.fixture
def blocked() -> Iterator[BlockingSink]:
    sink = BlockingSink()
    yield sink
    sink.release.set()


def in_child(check: str, dispatcher: Dispatcher, sink: RecordingSink) -> bool:
    """Fork, and say whether ``check`` (an expression) holds in the child."""
    pid = os.fork()
    if pid == 0:
        held = False
        try:
            held = bool(eval(check, {"d": dispatcher, "s": sink, "event": expired}))
        finally:
            os._exit(0 if held else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def has_thread(name: str) -> bool:
    return name in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("count", [1, 100])
def test_a_forgotten_one_delivers_everything_and_costs_no_thread(count: int) -> None:
    seen: list[Event] = []
    dispatcher = Dispatcher(seen.append, name="forgotten")
    for number in range(count):
        dispatcher.emit(expired(str(number)))
    del dispatcher
    eventually(lambda: not has_thread("timers-forgotten"))
    assert len(seen) == count


def test_one_that_waits_costs_no_thread_once_it_is_forgotten() -> None:
    seen: list[Event] = []
    dispatcher = Dispatcher(seen.append, name="forgotten")
    dispatcher.emit(expired("x"))
    assert dispatcher.flush(30)
    assert has_thread("timers-forgotten")
    del dispatcher
    eventually(lambda: not has_thread("timers-forgotten"))


def test_events_arrive_in_order_on_one_other_thread() -> None:
    seen: list[tuple[str, str]] = []

    def deliver(event: Event) -> None:
        seen.append((expired_scope(event), threading.current_thread().name))

    dispatcher = Dispatcher(deliver, name="order")
    for number in range(100):
        dispatcher.emit(expired(str(number)))
    assert dispatcher.flush(30)
    assert seen == [(str(number), "timers-order") for number in range(100)]
    assert (dispatcher.dropped, dispatcher.errors, dispatcher.pending) == (0, 0, 0)
    assert dispatcher.close(30)


def expired_scope(event: Event) -> str:
    return vars_of(event)


def vars_of(event: Event) -> str:
    timer = getattr(event, "timer", None)
    return timer.scope_id if timer else ""


def test_no_thread_before_the_first_event_and_none_after_close() -> None:
    sink = RecordingSink()
    dispatcher = Dispatcher(sink, name="lazy-thread")

    def running() -> bool:
        return any(thread.name == "timers-lazy-thread" for thread in threading.enumerate())

    assert not running()
    dispatcher.emit(expired())
    assert dispatcher.flush(30)
    assert running()
    assert dispatcher.close(30)
    assert not running()
    assert len(sink.events) == 1


def test_a_full_queue_drops_and_counts(blocked: BlockingSink) -> None:
    dispatcher = Dispatcher(blocked, name="full", capacity=5)
    dispatcher.emit(expired("0"))
    assert blocked.entered.wait(30)
    for number in range(1, 9):
        dispatcher.emit(expired(str(number)))
    assert dispatcher.dropped == 3
    assert dispatcher.pending == 6
    blocked.release.set()
    assert dispatcher.flush(30)
    assert [vars_of(event) for event in blocked.events] == list("012345")
    assert dispatcher.dropped == 3
    dispatcher.close(30)


def test_requests_leave_room_for_what_explains_a_reap(blocked: BlockingSink) -> None:
    dispatcher = Dispatcher(blocked, name="reserve", capacity=20, wants_requests=True)
    dispatcher.emit(ACQUIRED)
    assert blocked.entered.wait(30)
    for _ in range(100):
        dispatcher.emit(ACQUIRED)
    assert dispatcher.dropped == 82
    dispatcher.emit(expired())
    dispatcher.emit(expired())
    assert dispatcher.dropped == 82
    dispatcher.emit(expired())
    assert dispatcher.dropped == 83
    blocked.release.set()
    assert dispatcher.close(30)
    assert len(blocked.events) == 21


def test_counts_are_exact_with_eight_threads() -> None:
    sink = RecordingSink()
    dispatcher = Dispatcher(sink, name="exact", capacity=50)
    start = threading.Barrier(8)

    def emit() -> None:
        event = expired()
        start.wait()
        for _ in range(5_000):
            dispatcher.emit(event)

    threads = [threading.Thread(target=emit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dispatcher.flush(60)
    assert sink.events
    assert len(sink.events) + dispatcher.dropped == 8 * 5_000
    assert dispatcher.close(30)


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), KeyboardInterrupt()])
def test_a_receiver_that_raises_is_kept_counted_and_logged_once(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    sink = RaisingSink(error)
    dispatcher = Dispatcher(sink, name="raising-sink")
    with caplog.at_level(logging.ERROR, "timers.server.observers.event_queue"):
        for _ in range(50):
            dispatcher.emit(expired())
        assert dispatcher.close(30)
    assert sink.calls == dispatcher.errors == 50
    assert dispatcher.dropped == 0
    (record,) = (
        record for record in caplog.records if record.name == "timers.server.observers.event_queue"
    )
    assert "raising-sink" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_a_logging_handler_that_raises_does_not_end_the_thread() -> None:
    class Broken(logging.Handler):
        calls = 0

        def emit(self, record: logging.LogRecord) -> None:
            Broken.calls += 1
            raise RuntimeError(record.name)

    logger = logging.getLogger("timers.server.observers.event_queue")
    handler = Broken()
    logger.addHandler(handler)
    try:
        sink = RaisingSink(ValueError())
        dispatcher = Dispatcher(sink, name="broken-log")
        for _ in range(3):
            dispatcher.emit(expired())
        assert dispatcher.close(30)
    finally:
        logger.removeHandler(handler)
    assert Broken.calls == 1
    assert sink.calls == 3


def test_a_receiver_blocked_for_ever_costs_the_bound_of_a_flush_only_once(
    blocked: BlockingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = Dispatcher(blocked, name="stuck")
    dispatcher.emit(expired())
    assert blocked.entered.wait(30)
    assert not dispatcher.flush(0.05)
    waits: list[float] = []
    progress = dispatcher._progress
    wait = progress.wait

    def recorded(timeout: float | None = None) -> bool:
        waits.append(timeout or 0.0)
        return wait(timeout)

    monkeypatch.setattr(progress, "wait", recorded)
    dispatcher.emit(expired())
    assert not dispatcher.flush(0.05)
    assert waits == []
    # A longer bound waits for the difference, and progress resets it all.
    assert not dispatcher.flush(0.1)
    assert len(waits) >= 1
    assert waits[0] <= 0.05
    blocked.release.set()
    assert dispatcher.flush(30)
    assert len(blocked.events) == 2
    dispatcher.close(30)


def test_a_flush_that_only_looked_takes_nothing_from_the_next(blocked: BlockingSink) -> None:
    dispatcher = Dispatcher(blocked, name="look")
    dispatcher.emit(expired())
    assert blocked.entered.wait(30)
    for timeout in (0.0, -1.0, math.nan):
        assert not dispatcher.flush(timeout)
    threading.Timer(0.01, blocked.release.set).start()
    assert dispatcher.flush(math.inf)
    assert len(blocked.events) == 1
    dispatcher.close(30)


def test_flush_from_the_receiver_itself_does_not_wait_for_itself() -> None:
    answers: list[bool] = []

    def deliver(_event: Event) -> None:
        answers.append(dispatcher.flush(30))

    dispatcher = Dispatcher(deliver, name="own-flush")
    dispatcher.emit(expired())
    assert dispatcher.flush(30)
    assert answers == [False]
    assert dispatcher.close(30)


def test_close_gives_up_what_is_stuck_and_counts_it(blocked: BlockingSink) -> None:
    dispatcher = Dispatcher(blocked, name="give-up")
    for _ in range(4):
        dispatcher.emit(expired())
    assert blocked.entered.wait(30)
    assert not dispatcher.close(0.01)
    assert dispatcher.dropped == 3
    assert dispatcher.pending == 1
    dispatcher.emit(expired())
    assert dispatcher.dropped == 4
    blocked.release.set()
    eventually(lambda: dispatcher.pending == 0)
    assert dispatcher.close(30)
    assert len(blocked.events) == 1
    assert dispatcher.dropped == 4


def test_close_may_be_called_again_and_before_anything() -> None:
    sink = RecordingSink()
    unused = Dispatcher(sink, name="unused")
    assert unused.close(1)
    assert unused.close(1)
    assert unused.flush(1)
    unused.emit(expired())
    assert unused.dropped == 1
    assert sink.events == []


def test_a_thread_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = RecordingSink()
    dispatcher = Dispatcher(sink, name="no-threads")

    def fail(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", fail)
        dispatcher.emit(expired("first"))
        assert not dispatcher.flush(0.01)
    assert dispatcher.flush(30)
    assert [vars_of(event) for event in sink.events] == ["first"]
    dispatcher.close(30)


def test_emit_may_interrupt_emit(blocked: BlockingSink) -> None:
    """As a signal handler does, that runs while its thread holds the lock."""
    dispatcher = Dispatcher(blocked, name="reentrant")
    with dispatcher._lock:
        dispatcher.emit(expired())
    blocked.release.set()
    assert dispatcher.close(30)
    assert len(blocked.events) == 1


def test_a_child_starts_empty_and_works(blocked: BlockingSink) -> None:
    dispatcher = Dispatcher(blocked, name="forked", capacity=2)
    for _ in range(5):
        dispatcher.emit(expired())
    assert blocked.entered.wait(30)
    assert dispatcher.dropped >= 2
    assert in_child("d.pending == 0 and d.dropped == 0 and d.flush(0)", dispatcher, blocked)
    # The thread of the parent holds the lock that a child would inherit.
    with dispatcher._lock:
        works = "(s.release.set(), d.emit(event()), d.flush(30), len(s.events) == 1, d.close(9))"
        assert in_child(f"all(x is not False for x in {works})", dispatcher, blocked)
    blocked.release.set()
    assert dispatcher.flush(30)
    assert len(blocked.events) + dispatcher.dropped == 5
    dispatcher.close(30)


def test_a_receiver_may_fork() -> None:
    codes: list[int] = []

    def deliver(_event: Event) -> None:
        pid = os.fork()
        if pid == 0:
            # An event here would fork again, and so on.
            os._exit(0 if dispatcher.pending == 0 and dispatcher.flush(0) else 1)
        assert dispatcher.pending == 1
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    dispatcher = Dispatcher(deliver, name="forking")
    dispatcher.emit(expired())
    assert dispatcher.close(30)
    assert codes == [0]


def test_one_that_is_closed_and_forgotten_is_freed() -> None:
    dispatcher = Dispatcher(RecordingSink(), name="freed")
    dispatcher.emit(expired())
    assert dispatcher.close(30)
    gone = weakref.ref(dispatcher)
    assert gone() is dispatcher
    del dispatcher
    eventually(lambda: gc.collect() >= 0 and gone() is None)


def test_a_capacity_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="'none' cannot hold 0 events: pass capacity >= 1"):
        Dispatcher(RecordingSink(), name="none", capacity=0)


class BrokenObserver:
    wants_requests = True

    def __init__(self) -> None:
        self.calls = 0

    def emit(self, _event: Event) -> None:
        self.calls += 1
        raise OSError

    def flush(self, _timeout: float) -> bool:
        self.calls += 1
        raise OSError


def test_observers_are_isolated_from_each_other() -> None:
    broken, sink, quiet = BrokenObserver(), RecordingSink(wants_requests=True), RecordingSink()
    first = Dispatcher(sink, name="wants", wants_requests=True)
    second = Dispatcher(quiet, name="quiet")
    both = Observers(broken, first, second)
    assert both.wants_requests
    both.emit(ACQUIRED)
    both.emit(expired())
    assert not both.flush(30)
    assert broken.calls == 3
    assert [event.name for event in sink.events] == ["timer acquired", "timer expired"]
    assert [event.name for event in quiet.events] == ["timer expired"]
    assert Observers(first, second).flush(30)
    assert not Observers(second).wants_requests
    assert Observers().flush(0)
    first.close(30)
    second.close(30)


def test_a_stuck_observer_does_not_keep_the_next_from_being_flushed(blocked: BlockingSink) -> None:
    sink = RecordingSink()
    first, second = Dispatcher(blocked, name="first"), Dispatcher(sink, name="second")
    both = Observers(first, second)
    both.emit(expired())
    assert blocked.entered.wait(30)
    assert second.flush(30)
    assert not both.flush(0.02)
    assert len(sink.events) == 1
    blocked.release.set()
    assert both.flush(30)
    first.close(30)
    second.close(30)
