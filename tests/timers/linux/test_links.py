"""Locks, pipes and sockets of real processes, and who has the other end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from typing import TYPE_CHECKING

import pytest

from support.waiting import eventually
from timers.linux import links

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextlib.contextmanager
def child(work: Callable[[], object]) -> Iterator[int]:
    """A forked process that does ``work``, which blocks."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def link(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


def test_who_holds_a_lock_and_who_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def wait() -> None:
            with path.open("w") as mine:
                fcntl.flock(mine, fcntl.LOCK_EX)

        with child(wait) as pid:
            found = eventually(
                lambda: [lock for lock in links.locks() if pid in lock.waiting], "it waits"
            )
    [lock] = found
    stat = path.stat()
    assert (lock.holder, lock.device, lock.inode) == (os.getpid(), stat.st_dev, stat.st_ino)


def test_the_descriptor_that_a_thread_is_blocked_on() -> None:
    read, write = os.pipe()
    try:
        with child(lambda: os.read(read, 1)) as pid:
            eventually(lambda: links.blocked_descriptor(pid, pid) == read, "it reads the pipe")
            found = links.open_descriptors([os.getpid(), pid], timeout=10)[link(read)]
        assert {(each.pid, each.writes) for each in found} == {
            (pid, False),
            (pid, True),
            (os.getpid(), False),
            (os.getpid(), True),
        }
    finally:
        os.close(read)
        os.close(write)
    assert links.blocked_descriptor(2**22 + 1, 2**22 + 1) is None


def test_the_other_end_of_a_unix_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert links.peer_of(os.getpid(), link(ours.fileno())) == link(theirs.fileno())
        assert links.remote_port(os.getpid(), link(ours.fileno())) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_other_end_of_a_loopback_connection(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        with socket.create_connection((host, port)) as ours, server.accept()[0] as theirs:
            me = os.getpid()
            assert links.peer_of(me, link(ours.fileno())) == link(theirs.fileno())
            assert links.remote_port(me, link(ours.fileno())) == port
            assert links.peer_of(me, link(server.fileno())) is None
    # Its descriptor is closed: what is left of the connection has no process.
    assert links.peer_of(os.getpid(), "socket:[1]") is None


def test_nonsense_is_no_error() -> None:
    for text in ("", "pipe:[3]", "socket:[x]", "socket:[]"):
        assert links.peer_of(os.getpid(), text) is None
    assert links.open_descriptors([2**22 + 1], timeout=1) == {}
    assert links.open_descriptors([os.getpid()], timeout=0) == {}
