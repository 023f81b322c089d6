"""Many packets of a socket with one system call (recvmmsg(2)), and the pid of each one's sender.

Decision: through ctypes, without giving up the interpreter's lock. ``socket.recvmsg`` gives it up
for each packet, and as long as another thread computes, getting it back takes up to a switch
interval each time (5 ms by default): a busy second of a scrape would hold up every worker. The call
never waits, so nobody waits for the lock longer than it takes to copy what is there.
"""

from __future__ import annotations

import ctypes
import os
import socket
from typing import ClassVar

__all__ = ["Packets"]

_INT = 4
_UCRED_BYTES = 12  # struct ucred: pid, uid, gid


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
        space = socket.CMSG_SPACE(_UCRED_BYTES)
        self._control = bytearray(count * space)
        self._no_control = bytes(self._control)
        data, control = _address(storage), _address(self._control)
        self._pieces = (_Piece * count)()
        self._headers = (_Header * count)()
        for number, (piece, header) in enumerate(zip(self._pieces, self._headers, strict=True)):
            piece.base, piece.size = data + number * size, size
            message = header.message
            message.pieces, message.pieces_count = ctypes.addressof(piece), 1
            # Room for struct ucred and nothing else: descriptors that somebody sends along are
            # not taken.
            message.control = control + number * space
            message.control_size = socket.CMSG_LEN(_UCRED_BYTES)
        self._fresh_headers = bytes(self._headers)
        self._raw_headers = memoryview(self._headers).cast("B")
        lengths = self._raw_headers.cast("I")
        self._lengths = lengths[_Header.length.offset // _INT :: ctypes.sizeof(_Header) // _INT]
        senders = memoryview(self._control).cast("i")
        self._senders = senders[socket.CMSG_LEN(0) // _INT :: space // _INT]
        self._receive = ctypes.PyDLL(None, use_errno=True).recvmmsg
        self._receive.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p,
        ]  # fmt: skip
        self._address = ctypes.addressof(self._headers)

    def receive(self, fd: int) -> list[tuple[bytes, int]]:
        """Take packets, each with its sender's pid, of a socket with SO_PASSCRED.

        Never waits. An empty packet is the end. A pid of 0 is that of nobody known.

        :raises BlockingIOError: there is none.
        :raises OSError: as recvmmsg(2).
        """
        self._raw_headers[:] = self._fresh_headers
        self._control[:] = self._no_control  # or a packet without would have the last one's sender
        count = self._receive(fd, self._address, self._count, socket.MSG_DONTWAIT, None)
        if count < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        data, size = self._data, self._size
        lengths, senders = self._lengths[:count].tolist(), self._senders[:count].tolist()
        return [
            (data[start : start + length].tobytes(), sender)
            for start, length, sender in zip(
                range(0, count * size, size), lengths, senders, strict=True
            )
        ]


def _address(buffer: bytearray) -> int:
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
