"""The worker's end of the Unix socket: one connection, the board, and a thread that reconnects.

The server reads the board, so what travels here is little: the board itself (once to each server),
wake-ups for deadlines that come before the server's next look, events for a server that wants
them, and messages for slots that have no place on the board. A server that is slow, stopped or
gone therefore costs a worker nothing, and loses nothing but events.

The thread waits for the server to hang up, by dying for one, and hands the board to the next one;
also while the worker is stuck in a block, as long as that lets other threads run. It is a daemon,
and nothing depends on it at the end of the process: the server reads the board once more then.

A program that becomes a daemon closes every descriptor, these as well, and their numbers may be of
its own files later: none is closed, read or written without a look at what it is.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import logging
import select
import socket
import sys
import threading
import time
import weakref
from array import array
from functools import partial
from typing import TYPE_CHECKING

from timers.errors import NoServerError
from timers.linux.owned import Identity, identity
from timers.living import Living
from timers.transport import board
from timers.transport.receipt import OvertakenError, Unnoted, is_of_system
from timers.transport.socket_path import connect
from timers.transport.wire import BOARD, WAKE

from ._lines import Lines
from .slots.board import Board
from .slots.board_slot import BoardServer, BoardSlot
from .slots.messages import Channel, MessageSlot

if TYPE_CHECKING:
    from timers.transport.receipt import Receipt

    from ._on_error import ErrorPolicy
    from .slots.request import Request
    from .slots.slot import Slot

_logger = logging.getLogger(__name__)
_SEND_BYTES = 1 << 20
"""Room for about a thousand messages; the system's limit (net.core.wmem_max) applies."""
_FLAGS = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
_FIRST_RETRY_SECONDS = 0.01
_LAST_RETRY_SECONDS = 0.5
_SAID_AFTER_SECONDS = 10.0
_SERVED_SECONDS = 0.1
"""How long the first call waits for the server to take the board; one that is stopped takes it
later, and hears of no block before that."""
_TURNED_AWAY_SECONDS = 0.05
"""A connection that ends this soon was not wanted: trying again at once would be no use."""
_FULL = (errno.EAGAIN, errno.ENOBUFS)


class SocketChannel(Channel, BoardServer):
    """Connects one client of one process with its server.

    :param lines: makes the messages.
    :param use_board: whether to have a board; without one each block is two messages.

    The other parameters are those of :class:`~timers.worker.socket_client.SocketTimerClient`.
    """

    def __init__(
        self,
        path: str,
        users: frozenset[int],
        lines: Lines,
        errors: ErrorPolicy,
        *,
        connect_timeout: float,
        full_timeout: float,
        use_board: bool,
    ) -> None:
        self.path = path
        self.lines = lines
        self.reached = False
        """Whether there has ever been a server."""
        self.board: Board | None = None
        self.board_slots: Living[BoardSlot] = Living()
        self.wants = False
        self.uses: dict[str, int] = {}
        self.is_closed = False
        """Whether its client is no more. The thread may find it once more all the same: weak
        references refer to an object until its ``__del__`` is done."""
        self._users = users
        self._connect_timeout = connect_timeout
        self._use_board = use_board
        self._forget_connection()
        self._errors = errors
        super().__init__(errors.failed, full_timeout)

    def _forget_connection(self) -> None:
        self._connection: socket.socket | None = None
        self._file: Identity = None
        """What the connection's descriptor is."""
        self._keeper: threading.Thread | None = None
        self._kept: socket.socket | None = None
        """The connection whose end the thread waits for, and which it closes therefore."""
        self._served = 0
        self._woken: tuple[int, int] = (-1, 0)
        """How often the server had looked when it was last woken, and what for."""
        self._waited = False
        self._away_since: float | None = None
        self._away_said = False
        self._retry_seconds = _FIRST_RETRY_SECONDS
        self._retry_at = 0.0
        self._connected_at = 0.0
        self._unreachable: OSError | None = None

    # -- slots --------------------------------------------------------------------------------

    def make_slot(self, scope: str, thread: int) -> Slot:
        """Make the slot of ``scope`` in ``thread``: on the board, if there is room.

        :raises NoServerError: there has never been a server, and ``on_error`` is not "warn".
        :raises RequestTooLargeError: ``scope`` does not fit into a message.
        """
        self.lines.check(thread, scope)
        self._reach()
        if self.board is None and self._use_board:
            self._make_board()
        own = self.board
        number = None if own is None else own.take(scope, thread, self.lines.signal)
        if own is None or number is None:
            return MessageSlot(self, scope, thread)
        slot = BoardSlot(self, own, number, scope, thread)
        self.board_slots.add(slot)
        if self.board is not None and self.board is not own:  # another thread has moved all of them
            slot.move(self.board)
        return slot

    def _reach(self) -> None:
        """Connect, or have the thread do so, or say that there has never been a server."""
        if self._connection is not None or self._try_connect():
            return
        if not self.reached and not self._waited and not sys.is_finalizing():
            self._waited = True  # once: a job without a watchdog must not stall at each block
            give_up = time.monotonic() + self._connect_timeout
            while time.monotonic() < give_up and not self._try_connect():
                time.sleep(_FIRST_RETRY_SECONDS)
        if not self.reached and self._unreachable is not None:
            self._errors.unwatched(_without_frames(self._unreachable))
        self._start_keeper()

    def _make_board(self) -> None:
        try:
            made = Board(board.Layout())
        except OSError as error:
            self._use_board = False
            _logger.info("blocks are sent as messages, because there can be no board: %s", error)
            return
        with self.turn():
            if self.board is not None:  # of another thread, or of a handler that came in between
                return
            self.board = made
            if self._connection is not None and not self._hand_over(self._connection):
                self.lost(self._connection)
        # What the server wants is known as soon as it has the board: a moment later, most often.
        give_up = time.monotonic() + _SERVED_SECONDS
        while not made.words[board.SERVED] and time.monotonic() < give_up:
            if self._connection is None or sys.is_finalizing():
                return
            time.sleep(_FIRST_RETRY_SECONDS / 10)

    @property
    def unheard(self) -> int:
        """How many requests there were before there was any server."""
        if self.reached:
            return 0
        on_board = (slot.totals for slot in self.board_slots.members())
        return sum(map(sum, on_board)) + sum(sum(slot.totals) for slot in self.slots.members())

    # -- what slots on the board ask of the server --------------------------------------------

    def attend(self) -> bool:
        assert self.board is not None  # noqa: S101  # there are slots of it
        words = self.board.words
        served = words[board.SERVED]
        if served != self._served:
            self._served, self._woken = served, (-1, 0)
            self.wants = bool(words[board.WANTS])
            for slot in self.board_slots.members():
                slot.after = None  # its lead may be another
        return self.wants

    def lead(self, after_ns: int) -> int:
        assert self.board is not None  # noqa: S101  # there are slots of it
        words = self.board.words
        start_ns = words[board.SAMPLE_FROM_NS]
        if not 0 < start_ns <= after_ns:
            return 0
        return after_ns - after_ns * words[board.SAMPLE_SHARE] // 1000

    def wake(self, due_ns: int) -> None:
        assert self.board is not None  # noqa: S101  # there are slots of it
        looked = self.board.words[board.LOOKED]
        woken_at, woken_for = self._woken
        if looked == woken_at and due_ns >= woken_for:
            return  # it has been woken, and has not looked since
        # Not noted before it is sent: another thread, with a block that is due later, would rely on
        # it, and may keep this one from going on.
        if self._send_now(WAKE):
            self._woken = (looked, due_ns)
        else:
            # Where there is no room for it, other messages wait, and have the server look as well.
            self._connect_again()

    def send_event(self, request: Request, elapsed_ns: int | None) -> None:
        assert self.board is not None  # noqa: S101  # there are slots of it
        if not self._send_now(self.lines.event(request, elapsed_ns)):
            self.board.words[board.LOST if elapsed_ns is None else board.LOST_RELEASES] += 1

    def _send_now(
        self, line: bytes, receipt: Receipt | None = None, totals: tuple[int, int] = (0, 0)
    ) -> bool:
        if receipt is None:
            receipt = Unnoted()
        connection = self._connection
        if connection is None:
            return False
        if identity(connection.fileno()) != self._file:
            self.lost(connection)
            return False
        before = receipt.before
        try:
            if receipt.sent is not before:  # one step from here
                raise OvertakenError
            # fmt: off
            receipt.sent = totals; connection.send(line, _FLAGS)  # noqa: E702  # one step
        # fmt: on
        except OSError as error:
            receipt.sent = before  # one step from the call: what interrupts finds it so
            if not is_of_system(error):
                receipt.sent = totals
                raise
            if error.errno not in _FULL:
                self.lost(connection)
            return False
        return True

    def _connect_again(self) -> None:
        """Connect in place of the thread, which cannot know that somebody closed its descriptor."""
        if self._connection is None and self.reached:
            self._try_connect()

    # -- messages -----------------------------------------------------------------------------

    def write(self, request: Request, receipt: Receipt, totals: tuple[int, int]) -> None:
        line = self.lines.encode(request)
        if self._connection is None:
            self._try_connect()
        unreachable = None if self.reached else self._unreachable
        if self._connection is None and unreachable and self._errors.choice == "raise":
            raise _without_frames(unreachable)
        if not self._send_now(line, receipt, totals):
            self._connect_again()
            raise BlockingIOError(errno.EAGAIN, "there is no room, or no server")

    def wait_for_room(self, seconds: float) -> bool:
        connection = self._connection
        if connection is None:
            return False
        poll = select.poll()
        poll.register(connection, select.POLLOUT)
        found = poll.poll(seconds * 1000)
        return not any(events & ~select.POLLOUT for _, events in found)

    def _start_sender(self) -> bool:
        if self._connection is None:
            self._start_keeper()
            return True  # it sends as soon as there is a server
        return super()._start_sender()

    def send_once(self) -> bool:
        return super().send_once() and self._connection is not None

    # -- the connection -----------------------------------------------------------------------

    def _try_connect(self) -> bool:
        """Connect, unless that is not due yet; return whether there is a connection."""
        return self.in_turn(self._connect_if_due)

    def _connect_if_due(self) -> bool:
        now = time.monotonic()
        due = not self.reached or now >= self._retry_at
        if self._connection is None and due and not self.is_closed:
            self._connect(now)
        return self._connection is not None

    def _connect(self, now: float) -> None:
        try:
            connection = connect(self.path, self._users)
        except OSError as error:
            self._unreachable = _without_frames(error)
            self._try_later(now, error)
            return
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        if self.board is not None and not self._hand_over(connection):
            connection.close()
            self._try_later(now, NoServerError(errno.EPIPE, f"{self.path} takes no board"))
            return
        if not self.reached:
            self._errors.failures += self.unheard
        self._connection, self._file = connection, identity(connection.fileno())
        self._connected_at = now
        self.reached = True
        self._start_keeper()

    def _hand_over(self, connection: socket.socket) -> bool:
        """Give the server the board; False when it cannot be given."""
        if self.board is None:
            return True
        try:
            if not self.board.owns_descriptor():
                self._move_board(self.board)
        except OSError:  # there is no descriptor, or no memory, for another one
            return False
        words = self.board.words
        words[board.MONOTONIC], words[board.WALL] = time.monotonic_ns(), time.time_ns()
        rights = array("i", [self.board.fd])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        try:
            connection.sendmsg([BOARD], ancillary, _FLAGS)
        except OSError:
            return False
        return True

    def _move_board(self, old: Board) -> None:
        """Move all slots to a new board: somebody closed the descriptor of the old one."""
        self.board = new = Board(old.layout, old)
        old.words[board.CLOSED] = board.MOVED
        for slot in self.board_slots.members():
            if slot.board is old:
                slot.move(new)

    def _try_later(self, now: float, error: OSError) -> None:
        self._retry_at = now + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, _LAST_RETRY_SECONDS)
        if self._away_since is None:
            self._away_since = now
        elif self.reached and not self._away_said and now > self._away_since + _SAID_AFTER_SECONDS:
            self._away_said = True
            _logger.warning(
                "blocks have run unwatched for %g s, and will until there is a server: %s",
                _SAID_AFTER_SECONDS,
                error,
            )

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if identity(connection.fileno()) != self._file:
            connection.detach()
        elif connection is self._kept:
            # The thread is about to wait for it, by its number. A file that was given the number
            # by then would be waited for in its place, for ever.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.close()

    def lost(self, connection: socket.socket) -> None:
        """Give up ``connection``: the server closed it, or somebody closed ours."""
        self.in_turn(partial(self._lose, connection))

    def _lose(self, connection: socket.socket) -> None:
        if connection is not self._connection:
            return
        was_taken = identity(connection.fileno()) != self._file
        self._hang_up()
        for slot in self.slots.members():
            if slot.is_needed:
                self.unsent[slot] = None
        now = time.monotonic()
        if was_taken:
            self._keeper = None  # it waits for a descriptor that nobody can close any more
        if was_taken or now - self._connected_at > _TURNED_AWAY_SECONDS:
            self._away_since, self._away_said = None, False
            self._retry_at, self._retry_seconds = 0.0, _FIRST_RETRY_SECONDS
        else:
            self._try_later(now, NoServerError(errno.EPIPE, f"{self.path} hangs up at once"))

    # -- the thread that keeps it -------------------------------------------------------------

    def _start_keeper(self) -> None:
        if self._keeper is not None and self._keeper.is_alive():
            return
        if sys.is_finalizing():
            return  # a thread that is started now never runs, and starting it may never end
        keeper = threading.Thread(
            target=_keep, args=(weakref.ref(self),), name="timers-socket", daemon=True
        )
        with contextlib.suppress(RuntimeError):  # no more threads: the next call tries again
            keeper.start()
            self._keeper = keeper

    def keep(self) -> tuple[socket.socket | None, Identity, float]:
        """Connect where that is due.

        :returns: what to wait for, which the thread then closes; what its descriptor is; and how
            long to wait where there is nothing.
        """
        if self._try_connect() and self.unsent and not self.catch_up():
            self._start_sender()
        connection = self._kept = self._connection  # one step, see _hang_up
        return connection, self._file, max(0.0, self._retry_at - time.monotonic())

    def close(self) -> None:
        """Hang up, which ends the thread. For the end of a client."""
        self.is_closed = True
        if self.board is not None:
            self.board.words[board.CLOSED] = 1
            self.board.close()
        self._hang_up()

    def __del__(self) -> None:
        # A client made for a few blocks and forgotten must not cost a descriptor and a thread.
        try:  # noqa: SIM105  # when the interpreter ends, contextlib may be gone before this is
            self.close()
        except Exception:  # noqa: BLE001, S110  # a finalizer has nobody to tell
            pass

    def after_fork(self) -> None:
        """Leave everything to the parent, in a forked child."""
        self._kept = None  # the thread is the parent's, as is the connection's other end
        self._hang_up()
        for slot in self.board_slots.members():
            slot.forget()
        self.board_slots = Living()
        if self.board is not None:
            self.board.close()
        self.board = None
        self.uses = {}
        self.wants = False
        self.lines = Lines(self.lines.signal)
        self._forget_connection()
        super().after_fork()


def _without_frames(error: OSError) -> OSError:
    """Copy an error that is kept: its frames would keep the channel, whose client is forgotten."""
    kept, cause = copy.copy(error), error.__cause__
    if cause is not None:
        cause.__traceback__ = cause.__context__ = None
    kept.__cause__ = cause
    return kept


def _keep(reference: weakref.ref[SocketChannel]) -> None:
    """Hold on to a connection, but never to the channel, so that a forgotten one goes."""
    while (channel := reference()) is not None and not channel.is_closed:
        connection, file, seconds = channel.keep()
        del channel
        if connection is None:
            time.sleep(seconds)
            continue
        poll = select.poll()
        try:
            poll.register(connection, 0)  # that it hung up is always reported
        except (ValueError, OSError):
            found = True  # closed meanwhile
        else:
            found = bool(poll.poll())
        if found and (channel := reference()) is not None:
            channel.lost(connection)
        if identity(connection.fileno()) == file:
            connection.close()
        del channel, connection
