"""The server's end of the Unix socket (unix(7), SOCK_SEQPACKET): connections in, messages out.

Who a worker is, the kernel says. When it connects: its pid and user (SO_PEERCRED), and a pidfd of
that very process where there is one (SO_PEERPIDFD, Linux 6.5). With each packet: who sent it
(SCM_CREDENTIALS), so that a connection that was passed on or inherited speaks for nobody. What a
message says about its sender is ignored. Only thread ids are the worker's own, as it sees
them in its pid namespace: so do the tools that take its stack.

Decision: SOCK_SEQPACKET, not a stream. One packet is one message, credentials come with each, and
half a message of a worker that died does not exist.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections import deque
from typing import TYPE_CHECKING

from timers.forks import reset_in_child
from timers.linux import procfs
from timers.linux.descriptors import EXHAUSTED, Reserve, is_reserved
from timers.linux.owned import close_epoll, close_socket, identity

from ._packets import Packet, Packets
from .socket_path import BACKLOG, Listener, peer_credentials, remove
from .wire import MAX_LINE_BYTES, WAKE, Decoder, Message, Rejection

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from .socket_path import Credentials
    from .source import OnDescriptor

__all__ = ["SocketSource"]

_SO_PEERPIDFD = 77  # asm-generic/socket.h; the socket module has no name for it yet
_SO_PASSCRED = getattr(socket, "SO_PASSCRED", 16)
_PACKETS_AT_ONCE = 64
_TURN_MESSAGES = 512
"""How many messages, and 63 more, one call returns: two milliseconds of work for the server."""
_ACCEPTED_AT_ONCE = 64
_DRAIN_READS = 128
"""Of 64 packets; more than fit into what a client of ours has in flight."""
_MOST_CONNECTIONS = 64
"""Of one process, whose threads may well have a client each; so that it leaves room for others."""
_END = Packet(b"", 0)
_START_TIME = Message._fields.index("start_time")
_UNKNOWN_START_TIME = -1
"""Of a process that had ended before this was read: no living one can be taken for it."""


class _Peer:
    """One connection and whose it is."""

    __slots__ = ("connection", "credentials", "decoder", "has_ended", "identity", "start_time")

    def __init__(self, connection: socket.socket, credentials: Credentials) -> None:
        self.connection = connection
        self.identity = identity(connection.fileno())
        self.credentials = credentials
        self.start_time = _start_time(connection, credentials.pid)
        self.decoder = Decoder(most_known=200)
        self.has_ended = False


def _start_time(connection: socket.socket, pid: int) -> int | None:
    """Return when the process that connected began; -1 when it has ended, None if unknown."""
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
        self.on_descriptor: OnDescriptor | None = None
        self.on_wake: Callable[[int], None] | None = None
        """Both as of :class:`~timers.transport.source.BoardSource`."""
        self._listener = listener
        self._users = frozenset(users)
        self._peers: dict[int, _Peer] = {}
        self._by_pid: dict[int, list[_Peer]] = {}
        self._closed = False
        self._turns: deque[int] = deque()
        """The connections that were readable and have not had their turn since."""
        self._packets = Packets(_PACKETS_AT_ONCE, MAX_LINE_BYTES + 1)
        listener.connections.setblocking(False)
        # Inherited by what is accepted (Linux 6.16) or set again there. Packets of connections
        # that were not accepted yet carry credentials in any case.
        listener.connections.setsockopt(socket.SOL_SOCKET, _SO_PASSCRED, 1)
        self._reserve = Reserve()
        self._epoll = select.epoll()
        self._listening = listener.connections.fileno()
        self._listener_identity = identity(self._listening)
        self._epoll.register(self._listening, select.EPOLLIN)
        reset_in_child(self)

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to read or to accept."""
        return self._epoll.fileno()

    def read(
        self, timeout: float, pids: Collection[int] = ()
    ) -> tuple[Sequence[Message], Sequence[Rejection]]:
        """Return everything from ``pids``, and a fair share of what others have sent. Never waits.

        Fair: each connection that is readable gets its turn, of up to 64 packets, before any gets
        another one, however fast its worker sends; and a call returns after so many messages.
        """
        del timeout
        messages: list[Message] = []
        rejections: list[Rejection] = []
        if pids:  # one of their connections may be waiting to be accepted
            self._accept(rejections, BACKLOG)
        for pid in pids:
            for peer in tuple(self._by_pid.get(pid, ())):
                self._read_from(peer, _DRAIN_READS, messages, rejections)
        if not self._turns:
            ready = self._epoll.poll(0, len(self._peers) + 1)
            self._turns.extend(fd for fd, _ in ready)
        most = len(messages) + len(rejections) + _TURN_MESSAGES
        while self._turns and len(messages) + len(rejections) < most:
            fd = self._turns.popleft()
            if fd == self._listening:
                self._accept(rejections, _ACCEPTED_AT_ONCE)
            elif found := self._peers.get(fd):
                self._read_from(found, 1, messages, rejections)
        return messages, rejections

    # -- connections --------------------------------------------------------------------------

    def _accept(self, rejections: list[Rejection], most: int) -> None:
        """Accept up to ``most`` connections; what they have sent is read in their turn."""
        for _ in range(most):
            try:
                connection, _ = self._listener.connections.accept()
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    return  # none is left, or who it was has gone
                self._turn_away(rejections)
                return
            if is_reserved(connection.fileno()):
                connection.close()
                rejections.append(self._no_room())
                continue
            self._admit(connection, rejections)

    def _admit(self, connection: socket.socket, rejections: list[Rejection]) -> None:
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
        elif len(self._by_pid.get(credentials.pid, ())) >= _MOST_CONNECTIONS:
            detail = (
                f"process {credentials.pid} has {_MOST_CONNECTIONS} connections already: a client "
                "is safe from several threads, one is enough"
            )
            rejections.append(Rejection("too_many", detail))
        else:
            try:
                self._add(connection, credentials)
            except OSError as error:
                detail = f"process {credentials.pid} cannot be connected: {error}"
                rejections.append(Rejection("internal_error", detail))
            else:
                return
        connection.close()

    def _add(self, connection: socket.socket, credentials: Credentials) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, _SO_PASSCRED, 1)
        peer = _Peer(connection, credentials)
        self._epoll.register(connection, select.EPOLLIN)
        self._peers[connection.fileno()] = peer
        self._by_pid.setdefault(credentials.pid, []).append(peer)
        self._turns.append(connection.fileno())

    def _turn_away(self, rejections: list[Rejection]) -> None:
        """Hang up on one client that no descriptor is left for, or this server would spin."""
        with self._reserve.lent(), contextlib.suppress(OSError):
            self._listener.connections.accept()[0].close()
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
            self._by_pid[pid].remove(peer)
            if not self._by_pid[pid]:
                del self._by_pid[pid]

    # -- messages -----------------------------------------------------------------------------

    def _read_from(
        self, peer: _Peer, reads: int, messages: list[Message], rejections: list[Rejection]
    ) -> None:
        for _ in range(reads):
            try:
                packets = self._packets.receive(peer.connection.fileno())
            except BlockingIOError:
                return
            except OSError:
                packets = [_END]
            lines = self._lines(peer, packets, rejections)
            found, refused = peer.decoder.feed(b"".join(lines))
            rejections.extend(refused)
            messages.extend(_vouched(peer, message) for message in found)
            if peer.has_ended:
                self._forget(peer)  # that it hung up does not end its timers; that it exits does
                return
            if len(packets) < _PACKETS_AT_ONCE:
                return

    def _lines(
        self, peer: _Peer, packets: Sequence[Packet], rejections: list[Rejection]
    ) -> list[bytes]:
        """Return what the decoder is to read of some packets."""
        pid = peer.credentials.pid
        lines: list[bytes] = []
        for data, sender, descriptor in packets:
            if not data:
                peer.has_ended = True
            if descriptor is not None and self._hand_on(peer, data, sender, descriptor, rejections):
                continue
            if peer.has_ended:
                continue  # what comes after an empty packet is nobody's, but may have descriptors
            if sender != pid:
                rejections.append(_passed_on(peer, sender))
                continue
            if data == WAKE and self.on_wake is not None:
                self.on_wake(pid)
                continue
            lines.append(data)
            if data[-1] != 10:  # noqa: PLR2004  # newline: a packet is a line, the next one another
                lines.append(b"\n")
        return lines

    def _hand_on(
        self, peer: _Peer, data: bytes, sender: int, fd: int, rejections: list[Rejection]
    ) -> bool:
        """Hand on a packet that brought a descriptor; false, without the descriptor, if nobody's.

        The packet is then one like any other, as if nothing had been sent along.
        """
        its_own = sender == peer.credentials.pid and not peer.has_ended
        wanted = self.on_descriptor is not None and its_own
        if wanted and self.on_descriptor is not None and not is_reserved(fd):
            refused = self.on_descriptor(sender, peer.start_time, data, fd)
            if refused is None:
                return True
            rejections.append(refused)
            if refused.reason == "unexpected_descriptor":
                return False
            peer.has_ended = True  # so that its client learns of it, and tries again later
            return True
        os.close(fd)
        peer.has_ended = peer.has_ended or wanted
        detail = f"process {sender} sent a descriptor along, which nothing here takes"
        refused = self._no_room() if wanted else Rejection("unexpected_descriptor", detail)
        rejections.append(refused)
        return False

    def close(self, *, remove_path: bool = True) -> None:
        """Hang up on everybody and close the socket. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if remove_path and self._listener.inode is not None:
            remove(self._listener)
        self._reserve.close()
        close_epoll(self._epoll, self._listener_identity)
        for peer in self._peers.values():
            close_socket(peer.connection, peer.identity)
        self._peers.clear()
        close_socket(self._listener.connections, self._listener_identity)

    def after_fork(self) -> None:
        """Close it in a forked child, or clients would not notice the death of their server."""
        self.close(remove_path=False)


def _vouched(peer: _Peer, message: Message) -> Message:
    """Return the message in the name of who sent it, whoever it says that is."""
    fields = (*message[1:_START_TIME], peer.start_time, *message[_START_TIME + 1 :])
    return Message._make((peer.credentials.pid, *fields))


def _passed_on(peer: _Peer, sender: int) -> Rejection:
    who = f"process {sender}" if sender else "somebody"
    detail = f"{who} sent a request over the connection of process {peer.credentials.pid}"
    return Rejection("identity_mismatch", detail)
