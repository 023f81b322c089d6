"""What a process is blocked on, and who has the other end: locks, pipes, sockets.

Read from /proc, and for Unix sockets asked of the kernel (sock_diag(7)). Every answer may be
empty: a process that is gone or not ours to read, a kernel that does not say.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import procfs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "Lock",
    "Opened",
    "blocked_descriptor",
    "descriptors",
    "locks",
    "open_descriptors",
    "opened",
    "peer_of",
    "remote_port",
]

_ON_A_DESCRIPTOR = {
    # read, write, pread64, readv, connect, accept, sendto, recvfrom, sendmsg, recvmsg, flock
    "x86_64": frozenset((0, 1, 17, 19, 42, 43, 44, 45, 46, 47, 72, 73, 288)),
    "aarch64": frozenset((63, 64, 65, 67, 203, 202, 206, 207, 211, 212, 25, 32, 242)),
}
"""System calls (asm/unistd_64.h, asm-generic/unistd.h) that block on their first argument."""
_LOCK = re.compile(
    r"(?P<number>\d+): (?P<waits>-> )?(?P<kind>FLOCK|POSIX|OFDLCK) +\S+ +\S+ +(?P<pid>-?\d+) "
    r"(?P<major>[0-9a-f]+):(?P<minor>[0-9a-f]+):(?P<inode>\d+) "
)
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_UDIAG_SHOW_PEER = 4
_UNIX_DIAG_PEER = 2
_NETLINK_SOCK_DIAG = 4
_HEADER = struct.Struct("=IHHII")
_QUESTION = struct.Struct("=BBHIIIII")
_ANSWER = struct.Struct("=BBBBIII")
_ATTRIBUTE = struct.Struct("=HHI")
_ASK_SECONDS = 0.2
_TCP_FILES = ("tcp", "tcp6")


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock on a file (flock(2), fcntl(2)), and who waits for it."""

    device: int
    inode: int
    holder: int
    """Pid of who took it, who may have ended since and left it to a child."""
    waiting: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """Who has which end of a pipe or a socket open."""

    pid: int
    writes: bool


def blocked_descriptor(pid: int, thread: int) -> int | None:
    """Return the descriptor on which a thread is blocked in a system call; None when on none.

    Needs the right to trace the process.
    """
    words = procfs.system_call(pid, thread)
    if not words or int(words[0]) not in _ON_A_DESCRIPTOR.get(platform.machine(), frozenset()):
        return None
    found = int(words[1], 16)
    return found if found < 1 << 31 else None


def opened(pid: int, descriptor: int) -> str | None:
    """Return what a descriptor of ``pid`` is of: a path, ``pipe:[INODE]``; None when unknown.

    A stat(2) would wait for a file server that does not answer; this does not.
    """
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except OSError:
        return None


def locks() -> list[Lock]:
    """List the locks on files for which somebody waits, as /proc/locks has them."""
    try:
        with open("/proc/locks", encoding="ascii", errors="replace") as file:
            lines = [found for line in file if (found := _LOCK.match(line))]
    except OSError:
        return []
    waiting: dict[str, list[int]] = {}
    for line in lines:
        if line["waits"]:
            waiting.setdefault(line["number"], []).append(int(line["pid"]))
    return [
        Lock(
            os.makedev(int(line["major"], 16), int(line["minor"], 16)),
            int(line["inode"]),
            int(line["pid"]),
            tuple(waiting[line["number"]]),
        )
        for line in lines
        if not line["waits"] and line["number"] in waiting
    ]


def open_descriptors(pids: Iterable[int], *, timeout: float) -> dict[str, list[Opened]]:
    """Map ``pipe:[INODE]`` and ``socket:[INODE]`` to those of ``pids`` that have it open."""
    until = time.monotonic() + timeout
    found: dict[str, list[Opened]] = {}
    for pid in pids:
        if time.monotonic() > until:
            break
        for descriptor, link in descriptors(pid):
            if link.startswith(("pipe:", "socket:")):
                writes = link.startswith("socket:") or _writes(pid, descriptor)
                found.setdefault(link, []).append(Opened(pid, writes))
    return found


def descriptors(pid: int) -> Iterator[tuple[str, str]]:
    """Yield the descriptors of ``pid`` that may be looked at, each with what it is of."""
    directory = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for entry in os.listdir(directory):
            with contextlib.suppress(OSError):
                yield entry, os.readlink(f"{directory}/{entry}")


def _writes(pid: int, descriptor: str) -> bool:
    try:
        with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii") as file:
            flags = next(line for line in file if line.startswith("flags:"))
        return int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
    except (OSError, StopIteration, ValueError, IndexError):
        return False


def peer_of(pid: int, link: str) -> str | None:
    """Return the other end of a connected socket; None when it is not known.

    :param pid: a process that has it open.
    :param link: ``socket:[INODE]``.
    :return: ``socket:[INODE]`` when it is on this host, else ``ADDRESS:PORT``.
    """
    inode = link.removeprefix("socket:[").removesuffix("]")
    if not inode.isdigit():
        return None
    if (peer := _unix_peer(int(inode))) is not None:
        return peer
    found = _tcp_peer(pid, inode)
    if found is None:
        return None
    other, remote = found
    return f"socket:[{other}]" if other != "0" else _address(remote)


def remote_port(pid: int, link: str) -> int | None:
    """Return the TCP port that a socket is connected to; None when it is none of TCP."""
    found = _tcp_peer(pid, link.removeprefix("socket:[").removesuffix("]"))
    return None if found is None else int(found[1].rpartition(":")[2], 16)


def _unix_peer(inode: int) -> str | None:
    question = _QUESTION.pack(
        socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _UDIAG_SHOW_PEER, 0xFFFFFFFF, 0xFFFFFFFF
    )
    header = _HEADER.pack(_HEADER.size + len(question), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as asked:
            asked.settimeout(_ASK_SECONDS)
            asked.send(header + question)
            while True:
                for kind, body in _messages(asked.recv(1 << 16)):
                    if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                        return None
                    if _ANSWER.unpack_from(body)[4] == inode:
                        return _peer(body)
    except (OSError, struct.error):
        return None


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        if length < _HEADER.size:
            return
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _peer(body: bytes) -> str | None:
    rest = body[_ANSWER.size :]
    while len(rest) >= _ATTRIBUTE.size:
        length, kind, value = _ATTRIBUTE.unpack_from(rest)
        if kind == _UNIX_DIAG_PEER:
            return f"socket:[{value}]"
        if length < 4:  # noqa: PLR2004  # its own header
            return None
        rest = rest[(length + 3) & ~3 :]
    return None


def _tcp_peer(pid: int, inode: str) -> tuple[str, str] | None:
    """Find the other end among the sockets of the process's network namespace (proc(5)).

    Its inode, "0" when it is on another host, and its address as the kernel writes it.
    """
    ends: dict[tuple[str, str], str] = {}
    mine = None
    for name in _TCP_FILES:
        for words in _rows(f"/proc/{pid}/net/{name}"):
            ends[words[1], words[2]] = words[9]
            if words[9] == inode:
                mine = (words[1], words[2])
    if mine is None:
        return None
    local, remote = mine
    return ends.get((remote, local), "0"), remote


def _rows(path: str) -> Iterator[list[str]]:
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
        for line in file:
            words = line.split()
            if len(words) > 9 and words[0] != "sl":  # noqa: PLR2004  # up to the inode
                yield words


def _address(text: str) -> str | None:
    host, _, port = text.partition(":")
    try:
        raw = bytes.fromhex(host)
        # Each group of four bytes is in the order of this host.
        words = struct.unpack(f"={len(raw) // 4}I", raw)
        packed = struct.pack(f">{len(words)}I", *words)
        family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6  # noqa: PLR2004  # bytes
        name = socket.inet_ntop(family, packed)
        number = int(port, 16)
    except (ValueError, struct.error):
        return None
    if not number:
        return None
    return f"{name}:{number}" if ":" not in name else f"[{name}]:{number}"
