"""Many packets of a socket with one system call (recvmmsg(2)), each with its sender's pid.

A packet may bring one descriptor along (SCM_RIGHTS); the kernel closes any beyond that.

Decision: through ctypes, without giving up the interpreter's lock. ``socket.recvmsg`` gives it up
for each packet, and as long as another thread computes, getting it back takes up to a switch
interval each time (5 ms by default): a busy second of a scrape would hold up every worker. The call
never waits, so nobody waits for the lock longer than it takes to copy what is there.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from itertools import repeat
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_INT = 4
_UCRED_BYTES = 12  # struct ucred: pid, uid, gid
_UCRED_SPACE = socket.CMSG_SPACE(_UCRED_BYTES)
_RIGHTS = bytes(ctypes.c_size_t(socket.CMSG_LEN(_INT))) + bytes(
    (ctypes.c_int * 2)(socket.SOL_SOCKET, socket.SCM_RIGHTS)
)
"""The head of a struct cmsghdr with one descriptor."""
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


class Packet(NamedTuple):
    """One packet, with what the kernel says about it."""

    data: bytes
    """Empty at the end of the connection."""
    sender: int
    """Its pid; 0 for nobody known."""
    descriptor: int | None = None
    """What was sent along; to be closed by whoever takes the packet."""


class _Piece(ctypes.Structure):
    """struct iovec."""

    _fields_: ClassVar = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class _Message(ctypes.Structure):
    """struct msghdr."""

    _fields_: ClassVar = [
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("pieces", ctypes.c_void_p),
        ("pieces_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Header(ctypes.Structure):
    """struct mmsghdr."""

    _fields_: ClassVar = [("message", _Message), ("length", ctypes.c_uint)]


class Packets:
    """Where packets are received. For one thread, and any number of sockets.

    :param count: how many, at most, to take at once.
    :param size: bytes; what is longer is cut.
    """

    def __init__(self, count: int, size: int) -> None:
        self._count = count
        self._size = size
        storage = bytearray(count * size)
        self._data = memoryview(storage)
        # The kernel puts the credentials first. After them there is room for one descriptor and not
        # a byte more: CMSG_SPACE would be enough for two.
        self._space = space = _UCRED_SPACE + socket.CMSG_SPACE(_INT)
        self._control = bytearray(count * space)
        self._no_control = bytes(self._control)
        data, control = _address(storage), _address(self._control)
        self._pieces = (_Piece * count)()
        self._headers = (_Header * count)()
        for number, (piece, header) in enumerate(zip(self._pieces, self._headers, strict=True)):
            piece.base, piece.size = data + number * size, size
            message = header.message
            message.pieces, message.pieces_count = ctypes.addressof(piece), 1
            message.control = control + number * space
            message.control_size = _UCRED_SPACE + socket.CMSG_LEN(_INT)
        self._fresh_headers = bytes(self._headers)
        self._raw_headers = memoryview(self._headers).cast("B")
        lengths = self._raw_headers.cast("I")
        self._lengths = lengths[_Header.length.offset // _INT :: ctypes.sizeof(_Header) // _INT]
        sizes = self._raw_headers.cast("L")
        word = ctypes.sizeof(ctypes.c_ulong)
        self._control_sizes = sizes[
            _Message.control_size.offset // word :: ctypes.sizeof(_Header) // word
        ]
        senders = memoryview(self._control).cast("i")
        self._senders = senders[socket.CMSG_LEN(0) // _INT :: space // _INT]
        self._receive = ctypes.PyDLL(None, use_errno=True).recvmmsg
        self._receive.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p,
        ]  # fmt: skip
        self._address = ctypes.addressof(self._headers)

    def receive(self, fd: int) -> list[Packet]:
        """Take packets of a socket with SO_PASSCRED. Never waits.

        :raises BlockingIOError: there is none.
        :raises OSError: as recvmmsg(2).
        """
        self._raw_headers[:] = self._fresh_headers
        self._control[:] = self._no_control  # or a packet without would have the last one's sender
        count = self._receive(fd, self._address, self._count, _FLAGS, None)
        if count < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        data, size = self._data, self._size
        lengths, senders = self._lengths[:count].tolist(), self._senders[:count].tolist()
        descriptors: Iterable[int | None] = repeat(None, count)
        if max(self._control_sizes[:count].tolist()) > _UCRED_SPACE:
            descriptors = map(self._descriptor, range(count))
        return [
            _new(Packet, (data[start : start + length].tobytes(), sender, descriptor))
            for start, length, sender, descriptor in zip(
                range(0, count * size, size), lengths, senders, descriptors, strict=True
            )
        ]

    def _descriptor(self, number: int) -> int | None:
        """Return what came along with the packet of this number."""
        start = number * self._space + _UCRED_SPACE
        end = start + len(_RIGHTS)
        if self._control[start:end] != _RIGHTS:
            return None
        return int.from_bytes(self._control[end : end + _INT], sys.byteorder)


_new = tuple.__new__
"""Makes a packet of a tuple, without the cost of its signature."""


def _address(buffer: bytearray) -> int:
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
