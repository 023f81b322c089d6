"""The server's end of the socket, driven by hand: what it reads, refuses and gives back."""

from __future__ import annotations

import array
import json
import os
import resource
import select
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from support.children import FORKS, descriptors, in_child
from timers.file_based_local_timer import FileTimerServer
from timers.linux import procfs
from timers.testing import RecordingObserver
from timers.transport.seqpacket import SocketSource
from timers.transport.socket_path import connect, listen
from timers.transport.wire import Decoder, Rejection

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("s") / "s")


@pytest.fixture
def source(path: str) -> Iterator[SocketSource]:
    source = SocketSource(listen(path), {os.geteuid()})
    yield source
    source.close()


@pytest.fixture
def client(source: SocketSource) -> Iterator[socket.socket]:
    with connect(source.path) as client:
        yield client


def request(scope: str = "x", **changed: Any) -> bytes:
    return json.dumps(
        {
            "version": 1,
            "pid": 99,
            "scope_id": scope,
            "expiration_time": 1.0,
            "signal": 9,
            "start_time": 1,
            "thread": 7,
            **changed,
        }
    ).encode()


def is_readable(source: SocketSource) -> bool:
    return bool(select.select([source.fileno()], [], [], 0)[0])


def test_a_message_is_in_the_name_of_who_sent_it(
    source: SocketSource, client: socket.socket
) -> None:
    client.send(request("first"))  # before it is accepted
    assert is_readable(source)
    [first], _ = source.read(0)
    client.send(request("second") + b"\n")
    [second], rejections = source.read(0)
    assert rejections == []
    for message in (first, second):
        assert message.pid == os.getpid()
        assert message.start_time == procfs.start_time(os.getpid())
        assert (message.signal, message.thread) == (9, 7)
    assert not is_readable(source)


def test_of_a_message_only_who_sent_it_is_changed(
    source: SocketSource, client: socket.socket
) -> None:
    optional = {
        "deadline_ns": 10**18,
        "after": 2.5,
        "nested": True,
        "leave": True,
        "error": "E",
        "traceparent": "t",
        "span_id": "s",
        "warn_after": 1.5,
        "missed": [1, 2],
        "board": True,
        "took": 0.5,
    }
    data = request("all", **optional)
    client.send(data)
    [message], _ = source.read(0)
    [as_sent], _ = Decoder().feed(data + b"\n")
    assert as_sent.pid == 99
    assert None not in as_sent
    own = {"pid": os.getpid(), "start_time": procfs.start_time(os.getpid())}
    assert message == as_sent._replace(**own)  # type: ignore[arg-type]  # of two types


def test_a_kernel_without_pidfds_of_peers_is_asked_for_the_pid(
    source: SocketSource, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timers.transport.seqpacket._SO_PEERPIDFD", 9999)
    client.send(request())
    [message], _ = source.read(0)
    assert message.start_time == procfs.start_time(os.getpid())


@FORKS
@pytest.mark.parametrize("known", [True, False], ids=["with pidfd", "by pid"])
def test_who_has_ended_is_taken_for_nobody(
    source: SocketSource, monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    if not known:
        monkeypatch.setattr("timers.transport.seqpacket._SO_PEERPIDFD", 9999)

    def sends_and_ends() -> bool:
        connect(source.path).send(request(str(os.getpid())))
        return True

    assert in_child(sends_and_ends)
    [message], rejections = source.read(0)
    assert rejections == []
    assert (message.pid, message.start_time) == (int(message.scope_id), -1)


def test_a_packet_may_be_several_lines(source: SocketSource, client: socket.socket) -> None:
    client.send(request("a") + b"\n" + request("b"))
    messages, _ = source.read(0)
    assert [message.scope_id for message in messages] == ["a", "b"]


def test_a_bad_packet_costs_that_packet(source: SocketSource, client: socket.socket) -> None:
    for data in (b"x", request("y" * 5000), request("good"), b'{"version"'):
        client.send(data)
    messages, rejections = source.read(0)
    assert [message.scope_id for message in messages] == ["good"]
    assert [rejection.reason for rejection in rejections] == ["not_json", "too_long", "not_json"]


def test_descriptors_that_are_sent_along_are_not_taken(
    source: SocketSource, client: socket.socket
) -> None:
    source.read(0)
    before = descriptors()
    sent = array.array("i", [client.fileno()] * 50)
    client.sendmsg([request()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)])
    messages, rejections = source.read(0)
    assert len(messages) == 1
    assert [rejection.reason for rejection in rejections] == ["unexpected_descriptor"]
    assert descriptors() == before


class Taken:
    """Takes descriptors, in the place of whoever wants them."""

    def __init__(self, *, refused: Rejection | None = None) -> None:
        self.calls: list[tuple[int, int | None, bytes, int]] = []
        self.refused = refused

    def __call__(self, pid: int, start_time: int | None, data: bytes, fd: int) -> Rejection | None:
        self.calls.append((pid, start_time, data, fd))
        return self.refused

    def close(self) -> None:
        for *_, fd in self.calls:
            os.close(fd)


def send_with(client: socket.socket, data: bytes, *fds: int) -> None:
    client.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def test_a_descriptor_is_handed_to_who_takes_it_with_who_sent_it(
    source: SocketSource, client: socket.socket
) -> None:
    source.read(0)
    before = descriptors()
    source.on_descriptor = taken = Taken()
    client.send(request("before"))
    send_with(client, b"here it is", client.fileno(), client.fileno())
    client.send(request("after"))
    messages, rejections = source.read(0)
    assert [message.scope_id for message in messages] == ["before", "after"]
    assert rejections == []
    ((pid, start_time, data, fd),) = taken.calls
    assert (pid, data) == (os.getpid(), b"here it is")
    assert start_time == procfs.start_time(os.getpid())
    assert os.path.samestat(os.fstat(fd), os.fstat(client.fileno()))
    taken.close()
    assert descriptors() == before


def test_who_takes_descriptors_may_refuse_one(source: SocketSource, client: socket.socket) -> None:
    source.on_descriptor = taken = Taken(refused=Rejection("wrong_type", "mine"))
    send_with(client, b"x", client.fileno())
    messages, rejections = source.read(0)
    assert (messages, rejections) == ([], [Rejection("wrong_type", "mine")])
    assert len(source._peers) == 0  # by which its client hears of it
    taken.close()


@FORKS
def test_a_descriptor_over_a_connection_that_was_passed_on_is_nobodys(
    source: SocketSource, client: socket.socket
) -> None:
    source.read(0)
    before = descriptors()
    source.on_descriptor = taken = Taken()

    def sends() -> bool:
        send_with(client, request(), client.fileno())
        return True

    assert in_child(sends)
    messages, rejections = source.read(0)
    assert (messages, taken.calls) == ([], [])
    reasons = [rejection.reason for rejection in rejections]
    assert reasons == ["unexpected_descriptor", "identity_mismatch"]
    assert descriptors() == before


def test_a_descriptor_for_which_there_is_no_room_is_not_kept(
    source: SocketSource, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.on_descriptor = taken = Taken()
    source.read(0)
    before = descriptors()
    monkeypatch.setattr("timers.transport.seqpacket.is_reserved", lambda _descriptor: True)
    send_with(client, request("x"), client.fileno())
    messages, rejections = source.read(0)
    assert [rejection.reason for rejection in rejections] == ["internal_error"]
    # The connection is given up, so that the client hears of it and tries again.
    assert (messages, taken.calls, len(source._peers)) == ([], [], 0)
    assert len(descriptors()) == len(before) - 1
    with pytest.raises(ConnectionError):
        client.send(request("x"))


def test_an_empty_packet_with_a_descriptor_is_the_end(
    source: SocketSource, client: socket.socket
) -> None:
    source.read(0)
    source.on_descriptor = taken = Taken()
    before = descriptors()
    send_with(client, b"", client.fileno())
    send_with(client, request(), client.fileno())
    messages, _ = source.read(0)
    assert (messages, taken.calls, len(source._peers)) == ([], [], 0)
    assert len(descriptors()) == len(before) - 1


def test_a_connection_is_given_up_when_its_worker_does(source: SocketSource, path: str) -> None:
    with connect(path) as client:
        client.send(request())
        before = descriptors()
    messages, _ = source.read(0)  # what it sent before it hung up counts
    assert len(messages) == 1
    assert len(source._peers) == 0
    assert len(descriptors()) < len(before)


def test_an_empty_packet_is_a_hang_up(source: SocketSource, client: socket.socket) -> None:
    client.send(request())
    client.send(b"")
    assert len(source.read(0)[0]) == 1
    assert len(source._peers) == 0


def test_who_is_no_user_of_ours_is_turned_away(path: str) -> None:
    source = SocketSource(listen(path), {os.geteuid() + 1})
    with connect(path) as client:
        client.send(request())
        messages, [rejection] = source.read(0)
        assert messages == []
        assert rejection.reason == "other_user"
        assert len(source._peers) == 0
        client.setblocking(True)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    source.close()


def test_one_process_has_a_bound_on_its_connections(
    source: SocketSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timers.transport.seqpacket._MOST_CONNECTIONS", 2)
    held = [connect(source.path) for _ in range(3)]
    _, [rejection] = source.read(0)
    assert (rejection.reason, len(source._peers)) == ("too_many", 2)
    assert f"process {os.getpid()} has 2 connections" in rejection.detail
    held[2].setblocking(True)
    assert held[2].recv(1) == b""
    held[0].close()  # makes room
    source.read(0)
    with connect(source.path) as again:
        again.send(request("again"))
        [message], rejections = source.read(0)
        assert (message.scope_id, rejections) == ("again", [])
    for each in held:
        each.close()
    source.read(0)
    assert len(source._peers) == 0
    assert source._by_pid == {}


def test_the_last_descriptors_are_not_for_connections(
    source: SocketSource, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.read(0)
    with monkeypatch.context() as patch, connect(source.path) as late:
        patch.setattr("timers.transport.seqpacket.is_reserved", lambda _descriptor: True)
        client.send(request("served"))
        [message], [rejection] = source.read(0)
        assert message.scope_id == "served"
        assert rejection.reason == "internal_error"
        assert "no descriptors left" in rejection.detail
        late.setblocking(True)
        assert late.recv(1) == b""
    assert len(source._peers) == 1


def test_without_descriptors_one_is_turned_away_and_the_others_are_served(
    source: SocketSource, client: socket.socket
) -> None:
    source.read(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with connect(source.path) as late:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
        spare = []
        try:
            while True:
                spare.append(os.dup(client.fileno()))
        except OSError:
            pass
        try:
            client.send(request())
            messages, [rejection] = source.read(0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in spare:
                os.close(fd)
        assert len(messages) == 1
        assert rejection.reason == "internal_error"
        assert "no descriptors left" in rejection.detail
        late.setblocking(True)
        assert late.recv(1) == b""  # it knows, and can try again
    assert len(source._peers) == 1


@FORKS
def test_a_forked_child_does_not_keep_it(source: SocketSource, client: socket.socket) -> None:
    source.read(0)
    kept = {entry for entry in descriptors() if entry.endswith(("[eventpoll]", "/s"))}
    assert kept

    def has_none() -> bool:
        return not any(entry.endswith("[eventpoll]") for entry in descriptors())

    assert in_child(has_none)
    client.send(request())
    assert len(source.read(0)[0]) == 1
    assert os.path.exists(source.path)


# -- fair turns ------------------------------------------------------------------------------------


def full(connection: socket.socket, data: bytes) -> int:
    """Send until no more fits; return how many packets that were."""
    for number in range(1_000_000):
        try:
            connection.send(data)
        except BlockingIOError:
            return number
    raise AssertionError("there is no end to it")


def test_who_sends_much_does_not_delay_who_sends_little(
    source: SocketSource, client: socket.socket
) -> None:
    many = full(client, request("much"))
    assert many > 64
    with connect(source.path) as quiet:
        quiet.send(request("little"))
        messages, _ = source.read(0)
        assert [message.scope_id for message in messages] == ["much"] * 64 + ["little"]
        for left in (many - 64, many - 128):
            assert is_readable(source)
            messages, _ = source.read(0)
            assert [message.scope_id for message in messages] == ["much"] * min(64, left)


def test_a_call_returns_after_so_many_and_every_connection_gets_its_turn(
    source: SocketSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timers.transport.seqpacket._TURN_MESSAGES", 100)
    clients = [connect(source.path) for _ in range(8)]
    for number, each in enumerate(clients):
        for _ in range(200):
            each.send(request(str(number)) if number % 2 else b"{")
    seen: list[str] = []
    for call in range(4):
        messages, rejections = source.read(0)
        assert len(messages) + len(rejections) == 128, call
        seen += [message.scope_id for message in messages]
    assert {scope: seen.count(scope) for scope in seen} == dict.fromkeys("1357", 64)
    for each in clients:
        each.close()


def test_of_who_is_asked_for_everything_is_read(
    source: SocketSource, client: socket.socket
) -> None:
    source.read(0)
    second = connect(source.path)
    many = full(client, request("first")) + full(second, request("second"))
    messages, _ = source.read(0, {os.getpid()})
    assert len(messages) == many
    messages, _ = source.read(0, {os.getpid()})
    assert messages == []
    second.close()


# -- several sources as one ------------------------------------------------------------------------


def test_a_server_of_two_reads_both(source: SocketSource, client: socket.socket) -> None:
    before = descriptors()
    server = FileTimerServer(source.path + ".pipe", also=[source], observer=RecordingObserver())
    client.send(request("by socket"))
    with open(source.path + ".pipe", "wb") as pipe:
        pipe.write(request("by pipe", pid=os.getpid(), start_time=None) + b"\n")
    # Nothing has to be started for that; both name this process, which is no worker of its own.
    server._watchdog.step(time.monotonic_ns() + 60 * 10**9)
    assert server.statistics.rejected["protected_process"] == 2
    assert server._watchdog.workers.wait(0) == []
    client.send(request())
    server._watchdog.step(time.monotonic_ns() + 60 * 10**9)  # returns, because it is woken by that
    assert server.statistics.rejected["protected_process"] == 3
    server.stop()
    assert len(descriptors()) < len(before)
    assert not os.path.exists(source.path)


def test_a_source_without_a_descriptor_cannot_be_one_of_several(path: str) -> None:
    class Waiting:
        def fileno(self) -> None:
            return None

        def read(self, timeout: float, pids: Collection[int] = ()) -> tuple[list[Any], list[Any]]:
            raise AssertionError(timeout, pids)

        def close(self) -> None:
            pass

    with pytest.raises(ValueError, match="no descriptor to wait for"):
        FileTimerServer(path, also=[Waiting()])
    assert not os.path.exists(path)
