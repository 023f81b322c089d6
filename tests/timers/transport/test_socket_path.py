"""Where a socket may be, who may create it, and what is never touched."""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from support.children import FORKS
from timers import ReapPolicy, SocketTimerClient
from timers.errors import (
    InsecurePathError,
    NoServerError,
    PathOccupiedError,
    ServerRunningError,
)
from timers.socket_timer import socket_source
from timers.transport.seqpacket import SocketSource
from timers.transport.socket_path import (
    Listener,
    check_directory,
    check_path,
    connect,
    listen,
    peer_credentials,
    remove,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("s") / "s")


@pytest.fixture
def listener(path: str) -> Iterator[Listener]:
    listener = listen(path)
    yield listener
    listener.connections.close()


def mode(path: str) -> int:
    return os.stat(path).st_mode & 0o777


@pytest.mark.parametrize("name", ["@abstract", "\0abstract", "/tmp/a\0b"])
def test_abstract_names_are_refused(name: str) -> None:
    for use in (check_path, listen, SocketTimerClient):
        with pytest.raises(ValueError, match="abstract socket names are not used"):
            use(name)


def test_what_no_socket_can_have_is_refused() -> None:
    assert check_path("x" * 107)
    for name in ("", "x" * 108, "ä" * 54):
        with pytest.raises(ValueError, match="1 to 107 bytes"):
            check_path(name)


def test_only_its_owner_may_connect_whatever_the_umask(path: str) -> None:
    before = os.umask(0)
    try:
        with listen(path).connections:
            assert mode(path) == 0o600
    finally:
        os.umask(before)


def test_more_may_connect_when_that_is_asked_for(path: str) -> None:
    source = socket_source(path, ReapPolicy(users=frozenset({65534})))
    assert mode(path) == 0o666
    source.close()


def test_who_listens_is_known_to_who_connects(listener: Listener) -> None:
    with connect(listener.path) as connection:
        found = peer_credentials(connection)
    assert (found.pid, found.uid) == (os.getpid(), os.geteuid())


def test_a_live_server_stays(listener: Listener) -> None:
    with pytest.raises(ServerRunningError, match="live timer server"):
        listen(listener.path)
    with connect(listener.path):
        listener.connections.accept()[0].close()


@FORKS
def test_a_dead_servers_socket_is_taken_over_although_a_child_of_it_still_has_it(path: str) -> None:
    reader, writer = os.pipe()
    server = os.fork()
    if server == 0:
        try:
            held = listen(path)
            child = os.fork()
            if child:
                os.write(writer, str(child).encode())
            while held:
                signal.pause()
        finally:
            os._exit(1)
    child = int(os.read(reader, 100))
    try:
        with pytest.raises(ServerRunningError):
            listen(path)
        os.kill(server, signal.SIGKILL)
        os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)
        with listen(path).connections, connect(path) as client:  # it is a zombie at this moment
            assert peer_credentials(client).pid == os.getpid()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(server, 0)
        os.close(reader)
        os.close(writer)


def test_a_dead_servers_socket_is_taken_over(listener: Listener) -> None:
    listener.connections.close()
    with pytest.raises(NoServerError, match="no timer server listens"):
        connect(listener.path)
    with listen(listener.path).connections:
        connect(listener.path).close()


def test_what_is_no_socket_of_packets_stays(path: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write("mine")
    with pytest.raises(PathOccupiedError, match="no socket"):
        listen(path)
    os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(path)
        other.listen()
        with pytest.raises(PathOccupiedError, match="another kind"):
            listen(path)
        assert os.path.exists(path)


def test_a_directory_that_others_write_to_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    tmp_path.chmod(0o777)
    for use in (listen, check_directory):
        with pytest.raises(InsecurePathError, match="mode 0777: others could replace the socket"):
            use(path)
    tmp_path.chmod(0o1777)  # as /tmp
    check_directory(path)
    tmp_path.chmod(0o700)
    assert not os.path.exists(path)


def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        listen(str(tmp_path / "not" / "there"))


def test_of_servers_that_start_at_once_one_is_the_server(path: str) -> None:
    listen(path).connections.close()  # each finds the same dead one
    begin = threading.Barrier(8)
    won: list[Listener] = []
    lost: list[Exception] = []

    def start() -> None:
        begin.wait()
        try:
            won.append(listen(path))
        except ServerRunningError as error:
            lost.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    with connect(path), won[0].connections as winner:
        winner.accept()[0].close()


def test_only_its_own_path_is_removed(listener: Listener) -> None:
    os.unlink(listener.path)
    with open(listener.path, "w", encoding="ascii"):
        pass
    remove(listener)
    assert os.path.exists(listener.path)
    os.unlink(listener.path)
    remove(listener)  # and nothing is no trouble


def test_closing_twice_is_closing(listener: Listener) -> None:
    source = SocketSource(listener, {os.geteuid()})
    assert os.path.exists(listener.path)
    source.close()
    source.close()
    assert not os.path.exists(listener.path)
