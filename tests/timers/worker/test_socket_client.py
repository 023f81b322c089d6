"""The worker's end of the socket, without a board, with a server that does as a test wants."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from typing import TYPE_CHECKING

import pytest

import timers
from support.children import FORKS, descriptors, in_child, same_path
from support.waiting import eventually
from timers import SocketTimerClient, TimerClient
from timers.errors import NoServerError, RequestTooLargeError
from timers.transport.socket_path import listen
from timers.transport.wire import Decoder

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from timers.transport.socket_path import Listener
    from timers.transport.wire import Message


@pytest.fixture(autouse=True)
def no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every block sent, here and in the processes of these tests."""
    monkeypatch.setenv("TIMERS_BOARD", "off")


@pytest.fixture
def serve() -> Iterator[Callable[[Listener], Server]]:
    """Takes the next connection to a listener."""
    with contextlib.ExitStack() as ends:

        def take(listener: Listener) -> Server:
            server = Server(listener)
            ends.callback(server.connection.close)
            return server

        yield take


class Server:
    """Takes the connection that waits, and reads when it is told to."""

    def __init__(self, listener: Listener) -> None:
        self.connection: socket.socket = eventually(lambda: _accepted(listener))
        self.connection.setblocking(False)
        self._decoder = Decoder()

    def read(self) -> list[Message]:
        """All that lies there."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while data := self.connection.recv(5000):
                messages, rejections = self._decoder.feed(data)
                assert rejections == []
                found += messages
        return found

    def wait(self, count: int) -> list[Message]:
        """The next so many."""
        found: list[Message] = []

        def all_there() -> bool:
            found.extend(self.read())
            return len(found) >= count

        eventually(all_there)
        assert len(found) == count
        return found


def _accepted(listener: Listener) -> socket.socket | None:
    try:
        return listener.connections.accept()[0]
    except BlockingIOError:
        return None


def test_a_block_is_two_packets(listener: Listener, serve: Callable[[Listener], Server]) -> None:
    client = SocketTimerClient(listener.path, signal=15)
    with timers.expires(60, "x", client=client, warn_after=30):
        pass
    acquire, release = serve(listener).wait(2)
    assert (acquire.scope_id, acquire.signal, acquire.after, acquire.warn_after) == (
        "x",
        15,
        60.0,
        30.0,
    )
    assert acquire.thread == release.thread == threading.get_native_id()
    assert release.expiration_time == -1
    assert acquire.missed is release.missed is None


def test_a_server_that_does_not_read_loses_nothing_and_delays_once(
    listener: Listener, serve: Callable[[Listener], Server]
) -> None:
    client = SocketTimerClient(listener.path, full_timeout=0.2)
    longest = Counter[str]()
    count = 3_000  # more than a socket holds
    for number in range(count):
        started = time.monotonic()
        with timers.expires(60, f"scope {number % 3}", client=client):
            pass
        longest["waited"] += time.monotonic() - started > 0.15
    assert longest["waited"] < count / 100  # not each of them
    client.acquire("open", time.time() + 60)
    server = serve(listener)
    acquires, releases = Counter[str](), Counter[str]()
    open_scopes: set[str] = set()

    def take() -> bool:
        for message in server.read():
            if message.missed is not None:
                acquires[message.scope_id] += message.missed[0]
                releases[message.scope_id] += message.missed[1]
            elif message.expiration_time < 0:
                releases[message.scope_id] += 1
            else:
                acquires[message.scope_id] += 1
            (open_scopes.discard if message.expiration_time < 0 else open_scopes.add)(
                message.scope_id
            )
        return acquires["open"] == 1 and acquires.total() == count + 1

    eventually(take)
    assert releases.total() == count
    assert open_scopes == {"open"}
    client.release("open")  # it goes its usual way again
    [release] = server.wait(1)
    assert release.missed is None


@pytest.mark.slow
def test_nothing_is_left_untold_for_a_server_that_is_slow_for_a_moment(
    listener: Listener, serve: Callable[[Listener], Server]
) -> None:
    client = SocketTimerClient(listener.path, full_timeout=60.0)
    client.acquire("first", time.time() + 60)
    server = serve(listener)
    count = 3000
    told: list[Message] = []
    finished = threading.Event()

    def read() -> None:
        server.connection.setblocking(True)
        while not (finished.is_set() and told[-1].scope_id == "last"):
            time.sleep(0.0001)  # slower than what is sent
            told.extend(Decoder().feed(server.connection.recv(5000))[0])

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(count):
        with timers.expires(60, "x", client=client):
            # A worker that stops here for good is known by what it has told.
            assert not client._channel.unsent
    client.acquire("last", time.time() + 60)
    finished.set()
    reader.join(60)
    assert [message.scope_id for message in told] == ["first", *["x"] * (2 * count), "last"]
    assert not any(message.missed for message in told)


def test_a_server_that_stays_slow_is_waited_for_once(
    listener: Listener, serve: Callable[[Listener], Server]
) -> None:
    client = SocketTimerClient(listener.path, full_timeout=0.05)
    with timers.expires(60, "x", client=client):
        server = serve(listener)
    while not client._channel.unsent:
        with timers.expires(60, "x", client=client):
            pass
    assert client._channel._patience <= 0

    def caught_up() -> bool:
        server.read()
        return client._channel._patience == 0.05

    eventually(caught_up)
    assert not client._channel.unsent


def test_when_the_connection_breaks_what_is_open_is_told_again(
    listener: Listener, serve: Callable[[Listener], Server]
) -> None:
    client = SocketTimerClient(listener.path)
    expiration_time = time.time() + 60
    client.acquire("open", expiration_time)
    client.acquire("over", expiration_time)
    client.release("over")
    first = serve(listener)
    told = first.wait(3)
    assert told[0].expiration_time == expiration_time
    first.connection.close()
    second = serve(listener)  # by itself: nobody calls
    [again] = second.wait(1)
    assert (again.scope_id, again.missed) == ("open", (0, 0))
    assert again.deadline_ns == told[0].deadline_ns
    assert again.expiration_time == pytest.approx(expiration_time, abs=1)  # by today's clock


def test_without_a_server_a_block_is_not_entered(path: str) -> None:
    client = SocketTimerClient(path, connect_timeout=0.01)
    for _ in range(2):
        with pytest.raises(NoServerError, match="no timer server listens at"):
            client.acquire("x", time.time() + 60)
    with contextlib.closing(listen(path).connections) as late:
        client.acquire("y", time.time() + 60)
        connection, _ = late.accept()
        with connection:
            assert b'"y"' in connection.recv(5000)
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):  # nothing of "x"
                connection.recv(5000)


def test_a_client_that_fails_open_tells_the_first_server_there_is(
    path: str, serve: Callable[[Listener], Server]
) -> None:
    client = SocketTimerClient(path, on_error="warn", connect_timeout=0)
    expiration_time = time.time() + 60
    client.acquire("x", expiration_time)
    client.acquire("y", expiration_time)
    client.release("y")
    assert client.failures == 3
    listener = listen(path)
    server = serve(listener)
    found = {message.scope_id: message for message in server.wait(2)}
    assert found["x"].expiration_time == pytest.approx(expiration_time, abs=1)
    assert found["x"].missed == (1, 0)
    assert (found["y"].expiration_time, found["y"].missed) == (-1, (1, 1))
    server.connection.close()
    listener.connections.close()


def test_a_scope_that_is_too_long_is_refused_with_room_to_tell_it_again(
    listener: Listener, serve: Callable[[Listener], Server]
) -> None:
    client = SocketTimerClient(listener.path)
    with pytest.raises(RequestTooLargeError):
        client.acquire("x" * 4000, time.time() + 60)
    client.acquire("x" * 3700, 12345.5)
    server = serve(listener)
    server.wait(1)
    server.connection.close()
    [again] = serve(listener).wait(1)
    assert again.missed == (0, 0)


@pytest.mark.parametrize("number", [65, -65])
def test_signals_that_do_not_exist_are_refused(path: str, number: int) -> None:
    with pytest.raises(ValueError, match="signals go up to 64"):
        SocketTimerClient(path, signal=number)


def test_a_pickled_client_is_the_same_client_elsewhere(
    listener: Listener, serve: Callable[[Listener], Server]
) -> None:
    client: TimerClient = pickle.loads(
        pickle.dumps(SocketTimerClient(listener.path, signal=15, on_error="warn"))
    )
    assert isinstance(client, SocketTimerClient)
    client.acquire("x", time.time() + 60)
    [message] = serve(listener).wait(1)
    assert message.signal == 15
    assert client._errors.choice == "warn"


@FORKS
def test_a_forked_child_has_a_connection_and_timers_of_its_own(
    listener: Listener, serve: Callable[[Listener], Server]
) -> None:
    client = SocketTimerClient(listener.path)
    client.acquire("parent", time.time() + 60)
    parent = serve(listener)
    parent.wait(1)

    def child() -> bool:
        with timers.expires(60, "child", client=client):
            pass
        return True

    assert in_child(child)
    messages = serve(listener).wait(2)
    assert [message.scope_id for message in messages] == ["child"] * 2
    client.release("parent")
    [release] = parent.wait(1)
    assert (release.scope_id, release.pid) == ("parent", os.getpid())


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_a_client_that_found_no_server_goes_without_the_garbage_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_error: str
) -> None:
    monkeypatch.setenv("TIMERS_BOARD", "on")
    gc.disable()
    try:
        client = SocketTimerClient(tmp_path / "socket", on_error=on_error, connect_timeout=0.01)
        for _ in range(2):
            assert _refused(client) is (on_error == "raise")
        channel = weakref.ref(client._channel)
        assert channel() is not None
        del client
        eventually(lambda: channel() is None, "it is gone")
    finally:
        gc.enable()


def _refused(client: TimerClient) -> bool:
    try:
        with timers.expires(60, "step", client):
            return False
    except NoServerError as error:
        return isinstance(error.__cause__, FileNotFoundError)


def test_a_forgotten_client_leaves_no_thread_and_no_descriptor(listener: Listener) -> None:
    before = descriptors()
    threads = set(threading.enumerate())
    client = SocketTimerClient(listener.path)
    client.acquire("x", time.time() + 60)
    assert descriptors() - before
    del client
    gc.collect()
    eventually(lambda: set(threading.enumerate()) <= threads)
    eventually(lambda: descriptors() <= before)


def test_a_server_that_hangs_up_at_once_is_not_asked_all_the_time(
    listener: Listener, serve: Callable[[Listener], Server]
) -> None:
    client = SocketTimerClient(listener.path)
    client.acquire("x", time.time() + 60)
    for _ in range(3):
        serve(listener).connection.close()
    eventually(lambda: client._channel._retry_seconds > 0.02)
    [again] = serve(listener).wait(1)
    assert again.scope_id == "x"
    assert again.after == pytest.approx(60, abs=1)


def test_it_says_once_that_a_server_stays_away(
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    serve: Callable[[Listener], Server],
) -> None:
    monkeypatch.setattr("timers.worker._socket_channel._SAID_AFTER_SECONDS", 0.0)
    client = SocketTimerClient(listener.path)
    client.acquire("x", time.time() + 60)
    server = serve(listener)
    listener.connections.close()
    server.connection.close()

    def said() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        return [text for text in messages if "run unwatched" in text and listener.path in text]

    eventually(said)
    client.release("x")
    assert len(said()) == 1


LEAVES_AT_ONCE = """
import sys, timers
timers.configure(timers.SocketTimerClient(sys.argv[1], full_timeout=0.0))
for _ in range(int(sys.argv[2])):
    with timers.expires(600, "x"):
        pass
print("left", flush=True)
"""


def _counts(message: Message) -> dict[str, int]:
    """What a message says has happened."""
    if message.missed is not None:
        return {"acquires": message.missed[0], "releases": message.missed[1]}
    return {"releases" if message.expiration_time < 0 else "acquires": 1}


def test_a_process_that_ends_first_tells_what_happened(
    listener: Listener, serve: Callable[[Listener], Server]
) -> None:
    blocks = 3000
    command = [sys.executable, "-c", LEAVES_AT_ONCE, listener.path, str(blocks)]
    with subprocess.Popen(command, env=same_path(), stdout=subprocess.PIPE) as process:
        server = serve(listener)
        assert process.stdout is not None
        assert process.stdout.readline() == b"left\n"
        counts: Counter[str] = Counter()

        def ended() -> bool:
            for message in server.read():
                counts.update(_counts(message))
            return process.poll() is not None

        eventually(ended)
        ended()
    assert process.returncode == 0
    assert counts == {"acquires": blocks, "releases": blocks}


def test_a_process_that_ends_does_not_wait_for_a_server_that_is_gone(
    listener: Listener, serve: Callable[[Listener], Server]
) -> None:
    command = [sys.executable, "-c", LEAVES_AT_ONCE, listener.path, "3000"]
    with subprocess.Popen(command, env=same_path(), stdout=subprocess.PIPE) as process:
        server = serve(listener)
        assert process.stdout is not None
        assert process.stdout.readline() == b"left\n"
        listener.connections.close()
        server.connection.close()
        assert process.wait(60) == 0


@FORKS
def test_a_program_that_closed_every_descriptor_is_no_trouble(
    listener: Listener, serve: Callable[[Listener], Server], tmp_path: Path
) -> None:
    client = SocketTimerClient(listener.path)
    with timers.expires(60, "before", client=client):
        pass
    before = serve(listener)
    before.wait(2)

    def becomes_a_daemon() -> bool:
        forked = SocketTimerClient(listener.path)
        with timers.expires(60, "open", client=forked):
            os.closerange(3, 256)
            own = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT) for number in range(9)]
            os.write(own[-1], b"mine")
            with timers.expires(60, "after", client=forked):
                pass
            eventually(lambda: forked._channel._connection and not forked._channel.unsent)
            forked.release("no such")
            assert [os.fstat(fd).st_size for fd in own] == [0] * 8 + [4]
            forked._channel.close()
            assert [os.fstat(fd).st_size for fd in own] == [0] * 8 + [4]
        return True

    assert in_child(becomes_a_daemon)
    serve(listener)
    again = serve(listener).read()
    assert [message.missed for message in again if message.scope_id == "open"] == [(0, 0)]
    counts: Counter[str] = Counter()
    for message in again:
        if message.scope_id == "after":
            counts.update(_counts(message))
    assert counts == {"acquires": 1, "releases": 1}
    assert again[-1].scope_id == "no such"
