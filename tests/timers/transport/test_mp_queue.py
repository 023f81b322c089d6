"""What is read out of a multiprocessing queue: whole messages, all of them, and without waiting."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import pickle
import signal
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from support.children import alive, waiting
from support.waiting import eventually
from timers import (
    LocalTimerClient,
    LocalTimerServer,
    MultiprocessingRequestQueue,
    TimerRequest,
)
from timers.events import TimerExpired
from timers.testing import RecordingObserver
from timers.transport import mp_queue
from timers.transport.mp_queue import QueueSource, _QueuePipe

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["Queue", "SimpleQueue"])
def queue(request: pytest.FixtureRequest) -> Iterator[Any]:
    queue = getattr(mp.get_context("spawn"), request.param)()
    yield queue
    queue.close()


@pytest.fixture
def simple_queue() -> Iterator[Any]:
    queue: mp.queues.SimpleQueue[object] = mp.get_context("spawn").SimpleQueue()
    yield queue
    queue.close()


def framed(message: bytes) -> bytes:
    return struct.pack("!i", len(message)) + message


def raw(queue: Any, data: bytes) -> None:
    """Put bytes into the pipe of a queue, as a worker that is killed in the middle does."""
    os.write(queue._writer.fileno(), data)


def test_a_burst_is_read_to_its_last_request(queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # The descriptor does not tell of what has been read from it and not been taken.
    monkeypatch.setattr(mp_queue, "_BATCH", 10)
    source = QueueSource(MultiprocessingRequestQueue(queue))
    client = LocalTimerClient(queue)
    for number in range(50):
        client.acquire(f"scope {number}", 1.0)
    seen: list[str] = []

    def arrived() -> bool:
        messages, rejections = source.read(0.0)
        assert rejections == []
        seen.extend(message.scope_id for message in messages)
        assert messages == [] or source._queue.held == 0
        return len(seen) == 50

    eventually(arrived)
    assert seen == [f"scope {number}" for number in range(50)]


def test_a_bounded_queue_has_room_again() -> None:
    bounded = mp.get_context("spawn").Queue(maxsize=2)
    requests = MultiprocessingRequestQueue(bounded)
    for _ in range(3):
        for number in range(2):
            bounded.put(TimerRequest(number, "x", 1.0), timeout=10)
        assert requests.size() == 2
        got = requests.get(2, 10)
        assert [request.worker_id for request in got] == [0, 1]
        assert requests.size() == 0
    bounded.close()


def test_get_takes_as_many_as_asked_for_and_waits_for_no_more(queue: Any) -> None:
    requests = MultiprocessingRequestQueue(queue)
    assert requests.get(1, 0) == []
    for number in range(5):
        queue.put(TimerRequest(number, "x", 1.0))
    assert len(requests.get(3, 30)) == 3
    assert requests.size() > 0
    assert [request.worker_id for request in requests.get(9, 0.2)] == [3, 4]
    assert requests.size() == 0


def test_get_waits_for_what_comes_a_moment_later(simple_queue: Any) -> None:
    late = threading.Timer(0.05, simple_queue.put, args=(TimerRequest(1, "x", 1.0),))
    late.start()
    assert len(MultiprocessingRequestQueue(simple_queue).get(1, 1e12)) == 1
    late.join()


def test_messages_come_whole_however_they_are_cut() -> None:
    reader, writer = os.pipe()
    pipe = _QueuePipe(reader)
    bodies = [b"", b"x", b"y" * 300, struct.pack("!i", -1)]
    long_form = struct.pack("!i", -1) + struct.pack("!Q", 3) + b"abc"
    data = b"".join(map(framed, bodies)) + long_form
    found = []
    for index in range(len(data)):
        os.write(writer, data[index : index + 1])
        message = pipe.take(0)
        if message is not None:
            found.append(message)
    assert found == [*bodies, b"abc"]
    assert pipe.torn_bytes == 0
    os.close(writer)
    assert pipe.take(10) is None  # nobody will ever write again
    os.close(reader)


@pytest.mark.slow
def test_a_manager_that_is_gone_costs_no_deadline() -> None:
    manager = mp.get_context("spawn").Manager()
    requests = manager.Queue()
    recorder = RecordingObserver()
    server = LocalTimerServer(requests, observer=recorder, before_kill=lambda *_: None)
    with contextlib.ExitStack() as ends:
        pid, other = (ends.enter_context(waiting()) for _ in range(2))
        server.start()
        ends.callback(server.stop)
        now = time.time()
        requests.put(TimerRequest(other, "released", now + 1.5))
        requests.put(TimerRequest(other, "released", -1))
        requests.put(TimerRequest(pid, "stuck", now + 1.6))
        eventually(lambda: server.statistics.requests == 3)
        manager.shutdown()
        eventually(lambda: not alive(pid), "its timer is kept although no request can be read")
        assert alive(other)
        eventually(lambda: server.statistics.rejected["internal_error"] > 0)
        assert server.statistics.rejected["internal_error"] < 20  # it does not spin
    assert [event.timer.scope_id for event in recorder.of(TimerExpired)] == ["stuck"]


@pytest.mark.slow
def test_a_manager_that_is_stopped_costs_no_deadline_and_no_request() -> None:
    manager = mp.get_context("spawn").Manager()
    requests = manager.Queue()
    recorder = RecordingObserver()
    server = LocalTimerServer(requests, observer=recorder, before_kill=lambda *_: None)
    [its_process] = mp.active_children()
    its_pid = its_process.pid
    assert its_pid is not None
    with contextlib.ExitStack() as ends:
        ends.callback(manager.shutdown)
        ends.callback(os.kill, its_pid, signal.SIGCONT)
        pid, other = (ends.enter_context(waiting()) for _ in range(2))
        server.start()
        ends.callback(server.stop)
        requests.put(TimerRequest(pid, "stuck", time.time() + 0.5))
        eventually(lambda: server.statistics.requests == 1)
        os.kill(its_pid, signal.SIGSTOP)
        eventually(lambda: not alive(pid), "its timer is kept although no request can be read")
        eventually(lambda: server.statistics.rejected["internal_error"] == 1)
        os.kill(its_pid, signal.SIGCONT)
        requests.put(TimerRequest(other, "released", time.time() + 60))
        requests.put(TimerRequest(other, "released", -1))
        eventually(lambda: server.statistics.requests == 3)
        assert alive(other)
    assert [event.timer.scope_id for event in recorder.of(TimerExpired)] == ["stuck"]


def test_half_a_message_holds_up_nothing_and_is_told_once(
    simple_queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mp_queue, "_TORN_SECONDS", 0.0)
    source = QueueSource(MultiprocessingRequestQueue(simple_queue))
    LocalTimerClient(simple_queue).acquire("whole", 1.0)
    torn = framed(pickle.dumps(TimerRequest(1, "torn", 1.0)))
    raw(simple_queue, torn[:-1])
    messages, rejections = source.read(0.0)
    assert ([message.scope_id for message in messages], rejections) == (["whole"], [])
    (rejection,) = eventually(lambda: source.read(0.0)[1])
    assert rejection.reason == "wrong_type"
    assert f"half a message ({len(torn) - 1} bytes)" in rejection.detail
    for _ in range(3):
        assert source.read(0.0) == ([], [])
    raw(simple_queue, torn[-1:])  # it was only stopped
    messages, rejections = source.read(0.0)
    assert ([message.scope_id for message in messages], rejections) == (["torn"], [])


def test_nonsense_in_the_pipe_costs_itself(simple_queue: Any) -> None:
    source = QueueSource(MultiprocessingRequestQueue(simple_queue))
    raw(simple_queue, framed(b"no pickle") + framed(b"") + struct.pack("!iQ", -7, 2) + b"ab")
    LocalTimerClient(simple_queue).acquire("good", 1.0)
    messages, rejections = source.read(0.0)
    assert [message.scope_id for message in messages] == ["good"]
    assert [rejection.reason for rejection in rejections] == ["wrong_type"] * 3
