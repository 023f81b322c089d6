"""Packets that are read many at once: each whole, in order, and with who sent it."""

from __future__ import annotations

import array
import os
import socket
from typing import TYPE_CHECKING

import pytest

from support.children import FORKS, descriptors, in_child
from timers.transport._packets import Packets

if TYPE_CHECKING:
    from collections.abc import Iterator

SO_PASSCRED = 16


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Who sends, and who receives with credentials."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        other.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
        yield one, other


def test_what_is_there_comes_in_order_and_at_most_so_much(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = pair
    packets = Packets(8, 100)
    sent = [b"%d" % number * (number + 1) for number in range(20)]
    for data in sent:
        sender.send(data)
    found = []
    for expected in (8, 8, 4):
        some = packets.receive(receiver.fileno())
        assert len(some) == expected
        found += some
    assert found == [(data, os.getpid()) for data in sent]
    with pytest.raises(BlockingIOError):
        packets.receive(receiver.fileno())


def test_what_is_too_long_is_cut(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    packets = Packets(4, 10)
    for size in (9, 10, 11, 3):
        sender.send(b"x" * size)
    assert [len(data) for data, _ in packets.receive(receiver.fileno())] == [9, 10, 10, 3]


@FORKS
def test_each_has_its_own_sender(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    packets = Packets(4, 10)
    sender.send(b"mine")
    assert in_child(lambda: sender.send(b"child") == 5)
    sender.send(b"mine")
    (first, mine), (second, child), (third, again) = packets.receive(receiver.fileno())
    assert (first, second, third) == (b"mine", b"child", b"mine")
    assert mine == again == os.getpid()
    assert child not in (0, mine)


def test_without_credentials_nobody_is_the_sender(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = pair
    packets = Packets(4, 10)
    sender.send(b"x")
    assert packets.receive(receiver.fileno()) == [(b"x", os.getpid())]
    receiver.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 0)
    sender.send(b"x")
    assert packets.receive(receiver.fileno()) == [(b"x", 0)]


def test_descriptors_that_are_sent_along_are_not_taken(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = pair
    packets = Packets(4, 10)
    before = descriptors()
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sender.fileno()]))
    for _ in range(8):
        sender.sendmsg([b"x"], [rights])
    for _ in range(2):
        assert packets.receive(receiver.fileno()) == [(b"x", os.getpid())] * 4
    assert descriptors() == before


def test_the_end_is_an_empty_packet_and_no_socket_an_error(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = pair
    packets = Packets(4, 10)
    sender.send(b"last")
    sender.close()
    (last, _), *rest = packets.receive(receiver.fileno())
    assert last == b"last"
    assert {data for data, _ in rest} == {b""}
    assert packets.receive(receiver.fileno())[0][0] == b""
    with pytest.raises(OSError, match="Bad file descriptor"):
        packets.receive(-1)


def test_it_never_waits_even_for_a_socket_that_does(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = pair
    receiver.setblocking(True)
    packets = Packets(4, 10)
    sender.send(b"x")
    assert len(packets.receive(receiver.fileno())) == 1
    with pytest.raises(BlockingIOError):
        packets.receive(receiver.fileno())
