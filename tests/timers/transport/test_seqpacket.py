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
from timers.transport.seqpacket import SocketSource
from timers.transport.socket_path import connect, listen
from timers.transport.wire import Decoder

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    messages, _ = source.read(0)
    assert len(messages) == 1
    assert descriptors() == before


def test_a_connection_is_given_up_when_its_worker_does(source: SocketSource, path: str) -> None:
    with connect(path) as client:
        client.send(request())
        before = descriptors()
    messages, _ = source.read(0)  # what it sent before it hung up counts
    assert len(messages) == 1
    assert source.connections == 0
    assert len(descriptors()) < len(before)


def test_an_empty_packet_is_a_hang_up(source: SocketSource, client: socket.socket) -> None:
    client.send(request())
    client.send(b"")
    assert len(source.read(0)[0]) == 1
    assert source.connections == 0


def test_who_is_no_user_of_ours_is_turned_away(path: str) -> None:
    source = SocketSource(listen(path), {os.geteuid() + 1})
    with connect(path) as client:
        client.send(request())
        messages, [rejection] = source.read(0)
        assert messages == []
        assert rejection.reason == "other_user"
        assert source.connections == 0
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
    assert (rejection.reason, source.connections) == ("too_many", 2)
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
    assert source.connections == 0
    assert source._connections == {}


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
    assert source.connections == 1


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
    assert source.connections == 1


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


# -- several sources as one ------------------------------------------------------------------------


def test_a_server_of_two_reads_both(source: SocketSource, client: socket.socket) -> None:
    before = descriptors()
    server = FileTimerServer(source.path + ".pipe", also=[source])
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

        def read(self, timeout: float) -> tuple[list[Any], list[Any]]:
            raise AssertionError(timeout)

        def close(self) -> None:
            pass

    with pytest.raises(ValueError, match="no descriptor to wait for"):
        FileTimerServer(path, also=[Waiting()])
    assert not os.path.exists(path)
