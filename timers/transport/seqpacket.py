"""The server's end of the Unix socket (unix(7), SOCK_SEQPACKET): connections in, messages out.

Who a worker is, the kernel says. When it connects: its pid and user (SO_PEERCRED), and a pidfd of
that very process where there is one (SO_PEERPIDFD, Linux 6.5). With each packet: who sent it
(SCM_CREDENTIALS), so that a connection that was passed on or inherited speaks for nobody. What a
message says about its sender is not looked at. Only thread ids are the worker's own, as it sees
them in its pid namespace: so do the tools that take its stack.

Decision: SOCK_SEQPACKET, not a stream. One packet is one message, credentials come with each, and
half a message of a worker that died does not exist.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections import Counter
from typing import TYPE_CHECKING

from timers.forks import reset_in_child
from timers.linux import procfs
from timers.linux.descriptors import EXHAUSTED, Reserve, is_reserved

from .socket_path import Listener, peer_credentials, remove
from .wire import MAX_LINE_BYTES, Decoder, Message, Rejection

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .socket_path import Credentials

__all__ = ["SocketSource"]

_SO_PEERPIDFD = 77  # asm-generic/socket.h; the socket module has no name for it yet
_SO_PASSCRED = getattr(socket, "SO_PASSCRED", 16)
_PACKETS_AT_ONCE = 64
_MOST_READS = 128
"""Of so many packets; more than fit into what a client of ours has in flight."""
_MOST_CONNECTIONS = 64
"""Of one process, whose threads may well have a client each; so that it leaves room for others."""
_START_TIME = Message._fields.index("start_time")
_UNKNOWN_START_TIME = -1
"""Of a process that had ended before it was looked at: no living one can be taken for it."""


class _Peer:
    """One connection and whose it is."""

    __slots__ = ("connection", "credentials", "decoder", "start_time")

    def __init__(self, connection: socket.socket, credentials: Credentials) -> None:
        self.connection = connection
        self.credentials = credentials
        self.start_time = _start_time(connection, credentials.pid)
        self.decoder = Decoder(most_known=200)


def _start_time(connection: socket.socket, pid: int) -> int | None:
    """When the process that connected began; -1 when that has ended, None when it is not told."""
    try:
        pidfd = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        # Before Linux 6.5 its pid may have been recycled since it connected. The time between
        # is what this server takes to accept.
        found = procfs.start_time(pid)
        return _UNKNOWN_START_TIME if found is None else found
    try:
        found = procfs.start_time(pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        # Alive after its start time was read: it is the one that was read.
        return _UNKNOWN_START_TIME if poll.poll(0) else found
    finally:
        os.close(pidfd)


class SocketSource:
    """Every connection to one listening socket, as a source of the watchdog.

    :param listener: the socket; closed, and its path removed if it is ours, by :meth:`close`.
    :param users: whose processes may connect.

    For the watchdog's thread; closes itself in a forked child.
    """

    def __init__(self, listener: Listener, users: Iterable[int]) -> None:
        self.path = listener.path
        self._listener = listener
        self._users = frozenset(users)
        self._peers: dict[int, _Peer] = {}
        self._connections: Counter[int] = Counter()
        """How many of them each process has."""
        # Not for the worker's end, which imports this as well: ctypes is slow to import.
        from ._packets import Packets  # noqa: PLC0415  # see above

        self._packets = Packets(_PACKETS_AT_ONCE, MAX_LINE_BYTES + 1)
        listener.connections.setblocking(False)
        # Inherited by what is accepted (Linux 6.16) or set again there. Packets of connections
        # that were not accepted yet carry credentials in any case.
        listener.connections.setsockopt(socket.SOL_SOCKET, _SO_PASSCRED, 1)
        self._reserve = Reserve()
        self._epoll = select.epoll()
        self._epoll.register(listener.connections, select.EPOLLIN)
        reset_in_child(self)

    def fileno(self) -> int:
        """A descriptor that is readable when there is something to read or to accept."""
        return self._epoll.fileno()

    def read(self, timeout: float) -> tuple[Sequence[Message], Sequence[Rejection]]:
        """All that was sent until now, connection by connection. Never waits."""
        del timeout
        messages: list[Message] = []
        rejections: list[Rejection] = []
        listening = self._listener.connections.fileno()
        for fd, _ in self._epoll.poll(0, len(self._peers) + 1):
            if fd == listening:
                for accepted in self._accept(rejections):
                    self._read_from(accepted, messages, rejections)
            elif peer := self._peers.get(fd):
                self._read_from(peer, messages, rejections)
        return messages, rejections

    @property
    def connections(self) -> int:
        """How many workers are connected."""
        return len(self._peers)

    # -- connections --------------------------------------------------------------------------

    def _accept(self, rejections: list[Rejection]) -> list[_Peer]:
        accepted: list[_Peer] = []
        while True:
            try:
                connection, _ = self._listener.connections.accept()
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    return accepted  # none is left, or who it was has gone
                self._turn_away(rejections)
                return accepted
            if is_reserved(connection.fileno()):
                connection.close()
                rejections.append(self._no_room())
                continue
            peer = self._admit(connection, rejections)
            if peer is not None:
                accepted.append(peer)

    def _admit(self, connection: socket.socket, rejections: list[Rejection]) -> _Peer | None:
        credentials = peer_credentials(connection)
        if credentials.uid not in self._users:
            detail = (
                f"user {credentials.uid} (process {credentials.pid}) may not connect to this server"
            )
            rejections.append(Rejection("other_user", detail))
        elif credentials.pid <= 0:
            detail = (
                "a process connected that this server cannot see: it is in a pid namespace that is "
                "not inside of the server's, where it could not be ended either"
            )
            rejections.append(Rejection("identity_mismatch", detail))
        elif self._connections[credentials.pid] >= _MOST_CONNECTIONS:
            detail = (
                f"process {credentials.pid} has {_MOST_CONNECTIONS} connections already: a client "
                "is safe from several threads, one is enough"
            )
            rejections.append(Rejection("too_many", detail))
        else:
            try:
                return self._add(connection, credentials)
            except OSError as error:
                detail = f"process {credentials.pid} cannot be connected: {error}"
                rejections.append(Rejection("internal_error", detail))
        connection.close()
        return None

    def _add(self, connection: socket.socket, credentials: Credentials) -> _Peer:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, _SO_PASSCRED, 1)
        peer = _Peer(connection, credentials)
        self._epoll.register(connection, select.EPOLLIN)
        self._peers[connection.fileno()] = peer
        self._connections[credentials.pid] += 1
        return peer

    def _turn_away(self, rejections: list[Rejection]) -> None:
        """Without descriptors: let one client know, or it would wait and this server spin."""
        self._reserve.close()
        try:
            with contextlib.suppress(OSError):
                self._listener.connections.accept()[0].close()
        finally:
            self._reserve = Reserve()
        rejections.append(self._no_room())

    def _no_room(self) -> Rejection:
        detail = (
            f"this server has no descriptors left for more than {len(self._peers)} connections: "
            "raise its limit of open files (ulimit -n, LimitNOFILE=)"
        )
        return Rejection("internal_error", detail)

    def _forget(self, peer: _Peer) -> None:
        fd = peer.connection.fileno()
        if self._peers.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            peer.connection.close()
            pid = peer.credentials.pid
            self._connections[pid] -= 1
            if not self._connections[pid]:
                del self._connections[pid]

    # -- messages -----------------------------------------------------------------------------

    def _read_from(self, peer: _Peer, messages: list[Message], rejections: list[Rejection]) -> None:
        fd, pid = peer.connection.fileno(), peer.credentials.pid
        for _ in range(_MOST_READS):
            try:
                packets = self._packets.receive(fd)
            except BlockingIOError:
                return
            except OSError:
                packets = [(b"", pid)]
            lines: list[bytes] = []
            ended = False
            for data, sender in packets:
                if not data:
                    ended = True
                    break
                if sender != pid:
                    rejections.append(_passed_on(peer, sender))
                    continue
                lines.append(data)
                if data[-1] != 10:  # noqa: PLR2004  # newline: a packet is a line, the next one another
                    lines.append(b"\n")
            found, refused = peer.decoder.feed(b"".join(lines))
            rejections.extend(refused)
            messages.extend(_vouched(peer, message) for message in found)
            if ended:
                self._forget(peer)  # that it hung up does not end its timers; that it exits does
                return
            if len(packets) < _PACKETS_AT_ONCE:
                return

    def close(self, *, remove_path: bool = True) -> None:
        """Hang up on everybody and close the socket. Idempotent."""
        if self._epoll.closed:
            return
        if remove_path and self._listener.inode is not None:
            remove(self._listener)
        self._epoll.close()
        self._reserve.close()
        for peer in self._peers.values():
            peer.connection.close()
        self._peers.clear()
        self._listener.connections.close()

    def after_fork(self) -> None:
        """Close it in a forked child, or clients would not notice the death of their server."""
        self.close(remove_path=False)


def _vouched(peer: _Peer, message: Message) -> Message:
    """The message in the name of who sent it, whoever it says that is."""
    fields = (*message[1:_START_TIME], peer.start_time, *message[_START_TIME + 1 :])
    return Message._make((peer.credentials.pid, *fields))


def _passed_on(peer: _Peer, sender: int) -> Rejection:
    who = f"process {sender}" if sender else "somebody"
    detail = f"{who} sent a request over the connection of process {peer.credentials.pid}"
    return Rejection("identity_mismatch", detail)
