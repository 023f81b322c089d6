"""Packets that are read many at once: each whole, in order, and with who sent it."""

from __future__ import annotations

import array
import os
import socket
from typing import TYPE_CHECKING

import pytest

from support.children import FORKS, descriptors, in_child, no_descriptors
from timers.transport._packets import Packet, Packets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
    assert found == [Packet(data, os.getpid()) for data in sent]
    with pytest.raises(BlockingIOError):
        packets.receive(receiver.fileno())


def test_what_is_too_long_is_cut(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    packets = Packets(4, 10)
    for size in (9, 10, 11, 3):
        sender.send(b"x" * size)
    assert [len(data) for data, *_ in packets.receive(receiver.fileno())] == [9, 10, 10, 3]


@FORKS
def test_each_has_its_own_sender(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    packets = Packets(4, 10)
    sender.send(b"mine")
    assert in_child(lambda: sender.send(b"child") == 5)
    sender.send(b"mine")
    first, second, third = packets.receive(receiver.fileno())
    assert (first.data, second.data, third.data) == (b"mine", b"child", b"mine")
    assert first.sender == third.sender == os.getpid()
    assert second.sender not in (0, os.getpid())


def test_without_credentials_nobody_is_the_sender(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = pair
    packets = Packets(4, 10)
    sender.send(b"x")
    assert packets.receive(receiver.fileno()) == [Packet(b"x", os.getpid())]
    receiver.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 0)
    sender.send(b"x")
    assert packets.receive(receiver.fileno()) == [Packet(b"x", 0)]


def send_with(sender: socket.socket, *fds: int) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    sender.sendmsg([b"x"], [rights])


def test_one_descriptor_may_come_along_and_belongs_to_its_packet(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    sender, receiver = pair
    packets = Packets(8, 10)
    before = descriptors()
    files = [(tmp_path / name).open("wb") for name in "abc"]
    sent: list[int | None] = [None, files[0].fileno(), None, files[1].fileno(), files[2].fileno()]
    for fd in sent:
        send_with(sender, *([] if fd is None else [fd]))
    found = packets.receive(receiver.fileno())
    assert [(data, pid) for data, pid, _ in found] == [(b"x", os.getpid())] * 5
    for fd, (_, _, received) in zip(sent, found, strict=True):
        assert (received is None) == (fd is None)
        if fd is not None and received is not None:
            assert received != fd
            assert os.path.samestat(os.fstat(received), os.fstat(fd))
            assert not os.get_inheritable(received)
            os.close(received)
    send_with(sender)  # nothing of an earlier call is taken for this packet's
    assert packets.receive(receiver.fileno()) == [Packet(b"x", os.getpid())]
    for file in files:
        file.close()
    assert descriptors() == before


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 253])
def test_descriptors_beyond_the_first_are_not_taken(
    pair: tuple[socket.socket, socket.socket], count: int
) -> None:
    sender, receiver = pair
    packets = Packets(4, 10)
    before = descriptors()
    for _ in range(8):
        send_with(sender, *[sender.fileno()] * count)
    for _ in range(2):
        found = packets.receive(receiver.fileno())
        assert len(descriptors() - before) == len(found) == 4
        for packet in found:
            assert packet.descriptor is not None
            os.close(packet.descriptor)
    assert descriptors() == before


def test_without_a_free_descriptor_the_packet_comes_alone(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = pair
    packets = Packets(4, 10)
    send_with(sender, sender.fileno())
    with no_descriptors():
        assert packets.receive(receiver.fileno()) == [Packet(b"x", os.getpid())]


def test_the_end_is_an_empty_packet_and_no_socket_an_error(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = pair
    packets = Packets(4, 10)
    sender.send(b"last")
    sender.close()
    last, *rest = packets.receive(receiver.fileno())
    assert last.data == b"last"
    assert {packet.data for packet in rest} == {b""}
    assert packets.receive(receiver.fileno())[0].data == b""
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
