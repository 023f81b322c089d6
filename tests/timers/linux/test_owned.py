"""What was closed by somebody else, and its number given to another file, is left alone."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from typing import TYPE_CHECKING

import pytest

from support.children import FORKS, descriptors, in_child, no_descriptors
from timers import FileTimerServer, SocketTimerServer
from timers.linux.descriptors import Reserve
from timers.linux.owned import Owned, Wakeup, close_epoll, close_socket, identity
from timers.linux.process import Process
from timers.transport.seqpacket import SocketSource
from timers.transport.socket_path import connect, listen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextlib.contextmanager
def anonymous() -> Iterator[int]:
    """An eventfd; it has the inode that every other one has."""
    fd = os.eventfd(0)
    yield fd
    os.close(fd)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_who_has_an_inode_of_its_own_is_told_by_it(tmp_path: Path) -> None:
    one, other = os.pipe()
    sockets = socket.socketpair()
    pidfd = os.pidfd_open(os.getpid())
    with (tmp_path / "file").open("w") as file, sockets[0], sockets[1]:
        fds = (one, file.fileno(), sockets[0].fileno(), sockets[1].fileno(), pidfd)
        found = [identity(fd) for fd in fds]
        assert None not in found
        assert len(set(found)) == len(found)
        assert [identity(fd) for fd in fds] == found
        duplicate = os.dup(one)
        assert identity(duplicate) == identity(one)
        assert identity(other) == identity(one)  # of one pipe
    for fd in (one, other, pidfd, duplicate):
        os.close(fd)
        assert identity(fd) is None
    assert identity(-1) is None


def test_who_shares_one_is_told_by_nothing() -> None:
    with anonymous() as fd, select.epoll() as epoll:
        assert os.fstat(fd).st_ino == os.fstat(epoll.fileno()).st_ino
        assert identity(fd) is None
        assert identity(epoll.fileno()) is None
        Owned(os.dup(fd)).close()  # cannot be known to be ours: it stays
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventfd]":
                os.close(int(name))


@pytest.mark.parametrize("make", [os.eventfd, lambda _: os.memfd_create("its own")])
def test_a_number_that_is_another_files_by_now_is_not_closed(make: Callable[[int], int]) -> None:
    reader, writer = os.pipe()
    owned = Owned(reader)
    assert owned.is_ours
    os.close(reader)
    assert not owned.is_ours
    its = make(0)
    assert its == reader  # the lowest that is free
    owned.close()
    assert is_open(its)
    owned.close()
    for fd in (its, writer):
        os.close(fd)


def test_what_is_ours_is_closed_once() -> None:
    before = descriptors()
    owned = Owned(os.memfd_create("ours"))
    assert descriptors() != before
    owned.close()
    assert (owned.fd, descriptors()) == (-1, before)
    owned.close()


def test_a_wakeup_is_readable_until_it_is_cleared() -> None:
    before = descriptors()
    wakeup = Wakeup()
    assert len(descriptors()) == len(before) + 1
    assert not os.get_inheritable(wakeup.fd)
    wakeup.clear()
    assert not readable(wakeup.fd)
    for _ in range(100_000):  # more than a pipe holds: it never waits
        wakeup.wake()
    assert readable(wakeup.fd)
    while readable(wakeup.fd):
        wakeup.clear()
    wakeup.wake()
    assert readable(wakeup.fd)
    wakeup.close()
    wakeup.close()
    wakeup.wake()
    wakeup.clear()
    assert descriptors() == before


def test_a_socket_and_an_epoll_are_closed_only_as_what_they_are() -> None:
    one, other = socket.socketpair()
    epoll = select.epoll()
    epoll.register(one, select.EPOLLIN)
    known = identity(one.fileno())
    number, epoll_number = one.fileno(), epoll.fileno()
    with anonymous() as its, select.epoll() as its_epoll:
        held = os.dup(number), os.dup(epoll_number)
        os.dup2(its, number)
        os.dup2(its_epoll.fileno(), epoll_number)
        close_socket(one, known)
        close_epoll(epoll, known)
        del one, epoll
        assert is_open(number)
        assert is_open(epoll_number)
        for fd in (number, epoll_number):
            os.close(fd)
    with socket.socket(fileno=held[0]) as again, select.epoll.fromfd(held[1]) as same:
        close_epoll(same, known)
        close_socket(again, known)
        assert (same.closed, again.fileno()) == (True, -1)
    other.close()


def test_a_process_is_not_signalled_by_another_ones_pidfd() -> None:
    process = Process(os.getpid())
    fd = process.fileno()
    assert fd is not None
    os.close(fd)
    its = os.pidfd_open(os.getppid())
    assert its == fd
    process.send(0)  # by its pid and start time: to this very process
    process.close()
    assert is_open(its)
    os.close(its)


def numbers() -> set[int]:
    return {fd for fd in map(int, os.listdir("/proc/self/fd")) if is_open(fd)}


def reopen(fds: set[int]) -> None:
    """What a daemon does: close whatever is open, and have files of one's own with the numbers."""
    for number in fds:
        os.close(number)
        with select.epoll() as epoll:
            fd = os.dup(epoll.fileno()) if number % 2 else os.eventfd(0)
        if fd != number:
            os.dup2(fd, number)
            os.close(fd)


@FORKS
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_program_that_closed_all_of_a_server_keeps_its_own_files(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = str(tmp_path_factory.mktemp("s") / "s")

    def its_files_stay() -> bool:
        before = numbers()
        server = FileTimerServer(path) if kind == "pipe" else SocketTimerServer(path)
        clients = [connect(path)] if kind == "socket" else []
        server._watchdog.step(0)
        its = numbers() - before
        assert len(its) >= 4
        reopen(its)

        def stay() -> bool:
            return all(is_open(fd) for fd in its)

        assert in_child(stay)  # what a forked child closes of a server
        server._release_sources.close()  # and what the server itself does
        del server
        assert stay()
        for client in clients:
            client.detach()
        return True

    assert in_child(its_files_stay)


def test_out_of_descriptors_nobody_elses_is_closed(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The reserve is given free for a moment, and another thread may be quicker to take it.
    path = str(tmp_path_factory.mktemp("s") / "s")
    source = SocketSource(listen(path), {os.geteuid()})
    taken: list[int] = []

    def another_thread_is_quicker(_: socket.socket) -> None:
        with contextlib.suppress(OSError):
            taken.append(os.open(path + ".its", os.O_RDWR | os.O_CREAT))
        raise OSError(errno.EMFILE, "none is left")

    with connect(path):
        with no_descriptors(), monkeypatch.context() as patch:
            patch.setattr(socket.socket, "accept", another_thread_is_quicker)
            for _ in range(3):
                _, rejections = source.read(0)
                assert [found.reason for found in rejections] == ["internal_error"]
        assert len(taken) == 1
        assert os.path.samestat(os.fstat(taken[0]), os.stat(path + ".its"))
        os.close(taken[0])
        source.read(0)
        assert len(source._peers) == 1
    source.close()


def test_a_reserve_is_told_from_what_daemons_open() -> None:
    reserve = Reserve()
    number = reserve._spare.fd
    os.close(number)
    null = os.open(os.devnull, os.O_RDWR)
    assert null == number
    reserve.close()
    assert is_open(null)
    os.close(null)
