"""The fakes we ship behave as the real things do: the same tests for both."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from support.children import alive, waiting
from support.samples import all_events, expired
from support.waiting import eventually
from timers import FileTimerClient, FileTimerRequest, FileTimerServer, TimerClient
from timers.clock import SYSTEM_CLOCK, Clock
from timers.events import (
    Event,
    Observer,
    TimerAcquired,
    TimerExpired,
    WatchdogStarted,
    WorkerKilled,
)
from timers.server.observers.event_queue import Dispatcher
from timers.testing import Call, FakeClock, FakeSource, RecordingClient, RecordingObserver
from timers.transport.fifo_reader import FifoSource
from timers.transport.wire import Message, Rejection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from timers.transport.source import Source


# -- clocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", [SYSTEM_CLOCK, FakeClock()], ids=["system", "fake"])
def test_a_clock(clock: Clock) -> None:
    assert type(clock.monotonic_ns()) is int
    assert type(clock.time()) is float
    assert clock.time() > 1_000_000_000
    assert clock.monotonic_ns() <= clock.monotonic_ns()


def test_a_fake_clock_moves_only_when_it_is_moved() -> None:
    clock = FakeClock(time=100.0, monotonic_ns=5)
    assert (clock.time(), clock.monotonic_ns()) == (100.0, 5)
    assert (clock.time(), clock.monotonic_ns()) == (100.0, 5)
    clock.advance(0.25)
    assert (clock.time(), clock.monotonic_ns()) == (100.25, 250_000_005)
    clock.advance(0)
    assert (clock.time(), clock.monotonic_ns()) == (100.25, 250_000_005)


def test_stepping_the_wall_clock_takes_no_time() -> None:
    clock = FakeClock(time=100.0, monotonic_ns=5)
    clock.step_wall(-3600)
    assert (clock.time(), clock.monotonic_ns()) == (-3500.0, 5)
    clock.step_wall(7200)
    assert (clock.time(), clock.monotonic_ns()) == (3700.0, 5)


def test_time_does_not_go_back() -> None:
    clock = FakeClock()
    clock.advance(1)
    with pytest.raises(ValueError, match="cannot go back"):
        clock.advance(-0.001)


def test_a_fake_clock_adds_up_exactly() -> None:
    clock = FakeClock(monotonic_ns=0)
    for _ in range(1000):
        clock.advance(0.001)
    assert clock.monotonic_ns() == 1_000_000_000


def test_a_fake_clock_may_be_moved_from_several_threads() -> None:
    clock = FakeClock(monotonic_ns=0)

    def work() -> None:
        for _ in range(1000):
            clock.advance(0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.monotonic_ns() == 4_000_000_000


# -- clients --------------------------------------------------------------------------------------


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[FifoSource]:
    reader = FifoSource(str(tmp_path / "pipe"))
    yield reader
    reader.close()


@pytest.mark.parametrize("kind", ["fake", "file"])
def test_a_client_takes_requests_in_any_order(kind: str, pipe: FifoSource) -> None:
    client: TimerClient = RecordingClient() if kind == "fake" else FileTimerClient(pipe.reader.path)
    client.release("never acquired")
    client.acquire("x", 1.5)
    client.acquire("x", 2.5)
    client.release("x")
    client.release("x")
    if isinstance(client, RecordingClient):
        told = client.names
    else:
        messages, _ = pipe.read(0.0)
        told = [("release" if m.expiration_time < 0 else "acquire", m.scope_id) for m in messages]
    assert told == [
        ("release", "never acquired"),
        ("acquire", "x"),
        ("acquire", "x"),
        ("release", "x"),
        ("release", "x"),
    ]


def test_a_recording_client_keeps_the_arguments() -> None:
    client = RecordingClient()
    client.acquire("x", 1.5)
    client.release("x")
    assert client.calls == [Call("acquire", "x", 1.5), Call("release", "x", None)]


# -- observers ------------------------------------------------------------------------------------


def dispatcher(events: list[Event]) -> Observer:
    return Dispatcher(events.append, name="contract")


def recorder(events: list[Event]) -> Observer:
    observer = RecordingObserver()
    observer.events = events
    return observer


@pytest.mark.parametrize("make", [dispatcher, recorder])
def test_an_observer_keeps_the_order_and_flushes(
    make: Callable[[list[Event]], Observer],
) -> None:
    seen: list[Event] = []
    observer = make(seen)
    assert observer.wants_requests is False
    for event in all_events():
        observer.emit(event)
    assert observer.flush(30) is True
    assert seen == all_events()
    if isinstance(observer, Dispatcher):
        observer.close(30)


def test_a_recording_observer_finds_its_events() -> None:
    observer = RecordingObserver(wants_requests=True)
    assert observer.wants_requests is True
    observer.emit(expired("x"))
    observer.emit(WatchdogStarted(timestamp=1.0))
    assert observer.flush(0) is True
    observer.emit(expired("y"))
    assert observer.names == ["timer expired", "watchdog started", "timer expired"]
    assert [event.timer.scope_id for event in observer.of(TimerExpired)] == ["x", "y"]
    assert observer.flushes == [2]


# -- sources --------------------------------------------------------------------------------------

REQUESTS: list[Message | Rejection] = [
    Message(os.getpid(), "x", 1.5, 9),
    Rejection("empty", "an empty line: ''"),
    Message(os.getpid(), "x", -1, 0),
]


@pytest.mark.parametrize("kind", ["fake", "file"])
def test_a_source_gives_each_request_once(kind: str, pipe: FifoSource) -> None:
    source: Source
    if kind == "fake":
        source = fake = FakeSource()
        fake.put(*REQUESTS)
    else:
        source = pipe
        client = FileTimerClient(pipe.reader.path)
        client.acquire("x", 1.5)
        client._channel.writer.write(b"\n")
        client.release("x")
    messages, rejections = source.read(0.0)
    assert [(message.scope_id, message.expiration_time) for message in messages] == [
        ("x", 1.5),
        ("x", -1),
    ]
    assert [rejection.reason for rejection in rejections] == ["empty"]
    again = source.read(0.0)
    assert [len(found) for found in again] == [0, 0]


def test_a_fake_source_has_nothing_to_wait_on() -> None:
    assert FakeSource().fileno() is None
    assert FakeSource().read(1000.0) == ([], [])


# -- all of them together, as in a test of somebody's own ------------------------------------------


def test_a_real_server_on_a_fake_clock(tmp_path: Path) -> None:
    clock, observer = FakeClock(), RecordingObserver(wants_requests=True)
    server = FileTimerServer(
        tmp_path / "pipe", max_interval=0.01, clock=clock, observer=observer, before_kill=no_step
    )
    server.start()
    with waiting() as worker:
        client = FileTimerClient(server._file_path)
        client._send_request(FileTimerRequest(worker, "x", clock.time() + 60, signal.SIGKILL))
        eventually(lambda: observer.of(TimerAcquired))
        clock.advance(59)
        clock.step_wall(-3600)
        assert alive(worker)
        clock.advance(1)

        def killed() -> list[WorkerKilled]:
            # A minute in one jump looks to the server as if it had been stopped.
            clock.advance(0.1)
            return observer.of(WorkerKilled)

        eventually(killed)
        assert not alive(worker)
    server.stop()
    (expired,) = observer.of(TimerExpired)
    assert expired.elapsed_seconds >= 60


def no_step(run_id: str, expired: dict[int, list[str]]) -> None:
    del run_id, expired
