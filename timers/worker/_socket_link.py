"""The worker's end of the Unix socket: one connection, and the truth about its own timers.

What a server knows dies with it; this end knows it too. When the connection breaks, a thread of
its own connects again and tells the next server how things stand. When the server is slow and the
socket full, the same thread tells it what has piled up, once there is room.

What it takes from the worker: a server that is slow slows it down, and a server that reads nothing
is waited for by its calls for ``full_timeout`` seconds, all together. Only the very first call of a
process waits for a server that is not there yet.

A process that ends waits, for a bounded time, until a server that is there has been told.

A program that becomes a daemon closes every descriptor, these as well, and their numbers may be of
its own files later: none is closed, read or woken by without a look at what it is. Sending does
without that look.

A thread needs the interpreter: a worker that holds its lock (a C call that does not release it)
cannot tell a new server of its timers before that call ends, nor one that did not read for longer
than it was waited for.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import select
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING

from timers.errors import NoServerError
from timers.transport.socket_path import check_path, connect

from ._open_timers import Key, OpenTimers
from ._request_lines import LEAVE

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    _File: TypeAlias = tuple[int, int]

__all__ = ["SocketLink"]

_logger = logging.getLogger(__name__)
_SEND_BYTES = 1 << 20
"""Room for about a thousand requests; the system's limit (net.core.wmem_max) applies."""
_FLAGS = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
_FIRST_RETRY_SECONDS = 0.01
_LAST_RETRY_SECONDS = 0.5
_SAID_AFTER_SECONDS = 10.0
_EXIT_SECONDS = 10.0
"""How long a process that ends waits for a server that is stopped. What it is told then counts."""
_LOOK_SECONDS = 0.1
_SLICE_SECONDS = 0.01
_TURNED_AWAY_SECONDS = 0.05
"""A connection that ends this soon was not wanted: trying again at once would be no use."""
_HUNG_UP = select.POLLHUP | select.POLLERR | select.POLLNVAL


class SocketLink:
    """Delivers the requests of one process.

    :param path: of the server's socket.
    :param users: who, besides this user and root, may be the server.
    :param released: gives the base of a release's line.
    :param keep_trying: whether to remember what could not be told before there was any server.
    :param connect_timeout: seconds that the first call waits for a server that is not there (yet).
    :param full_timeout: seconds that calls wait, all together, for a server that reads nothing.

    Safe from several threads. After a fork the child needs one of its own, and closes this.
    """

    def __init__(
        self,
        path: str,
        users: frozenset[int],
        released: Callable[[int, str], str],
        *,
        keep_trying: bool,
        connect_timeout: float,
        full_timeout: float,
    ) -> None:
        self.path = check_path(path)
        self.reached = False
        """Whether there has ever been a server."""
        self._users = users
        self._keep_trying = keep_trying
        self._connect_timeout = connect_timeout
        self._full_timeout = full_timeout
        self._patience = full_timeout
        """For how long the server is still waited for, unless it reads something."""
        self._timers = OpenTimers(released)
        self._lock = threading.RLock()
        self._connection: socket.socket | None = None
        self._file: _File | None = None
        """What the connection's descriptor is."""
        self._serial = 0
        """Of the connection: descriptors are numbered alike again and again."""
        self._tended = (-1, False)
        """What the thread is waiting for: the serial, and whether for room."""
        self._wake_fd = -1
        self._wake_file: _File | None = None
        self._tender: threading.Thread | None = None
        self._outlasting = False
        """Whether a thread keeps the process from ending before the server knows everything."""
        self._waited = False
        self._unreachable: OSError | None = None
        self._away_since: float | None = None
        self._retry_seconds = _FIRST_RETRY_SECONDS
        self._retry_at = 0.0
        self._connected_at = 0.0

    # -- what the worker calls ----------------------------------------------------------------

    def acquire(self, key: Key, line: bytes, base: str, marks: str, rest: str) -> None:
        """Tell that a block was entered, restarted, or left for the one around it.

        :param line: made of the other three, as :meth:`OpenTimers.acquire` takes them.
        :raises NoServerError: there has never been a server. With a server that went away, the
            next one is told.
        :raises InsecurePathError: another user's server is there.
        """
        with self._lock:
            was_open = self._timers.is_open(key)
            self._timers.acquire(key, base, marks, rest)
            if self._connected() and self._caught_up() and self._send(line):
                return
            counts = (0, 1) if marks.startswith(LEAVE) else (1, 0)
            self._later(key, *counts, was_open=was_open)

    def release(self, key: Key, line: bytes) -> None:
        """Tell that a block was left. Raises as :meth:`acquire`."""
        with self._lock:
            was_open = self._timers.is_open(key)
            self._timers.release(key)
            if self._connected() and self._caught_up() and self._send(line):
                return
            self._later(key, 0, 1, was_open=was_open)

    def _connected(self) -> bool:
        """Whether there is a connection, after trying for one where that is due."""
        if self._connection is None:
            self._try_connect(at_once=not self.reached)
            if self._connection is None and not self.reached:
                self._wait_for_the_first()
            if self._connection is not None:
                self._tend()
        return self._connection is not None

    def _send(self, line: bytes) -> bool:
        waited = False
        while (connection := self._connection) is not None:
            try:
                connection.send(line, _FLAGS)
            except BlockingIOError:
                waited = True
                if not self._wait_for_room(connection):
                    return False
            except OSError:
                self._lost()
            else:
                if waited:
                    self._patience = self._full_timeout
                return True
        return False

    def _caught_up(self) -> bool:
        """Whether all that came before has been told, after waiting for that if it is due.

        What this process does next may keep its other threads from telling it: a C call that holds
        the interpreter's lock, or a stop. A timer that nobody knows of is kept by nobody.
        """
        while self._timers.untold:
            connection = self._connection
            if connection is None or not self._wait_for_room(connection):
                return False
            self._tell()
        return True

    def _wait_for_room(self, connection: socket.socket) -> bool:
        """Wait a moment for the server to read; false when it has not for long enough."""
        if self._patience <= 0:
            return False
        began = time.monotonic()
        poll = select.poll()
        poll.register(connection, select.POLLOUT)
        # In slices: room is reported when three quarters are free, and there is some before that.
        poll.poll(min(self._patience, _SLICE_SECONDS) * 1000)
        self._patience -= time.monotonic() - began
        return True

    def _later(self, key: Key, acquires: int, releases: int, *, was_open: bool) -> None:
        """Note what could not be sent; tell it if there is room, else leave it to the thread."""
        self._timers.not_told(key, was_open=was_open, acquires=acquires, releases=releases)
        self._tell()
        self._caught_up()
        if self.reached or self._keep_trying:
            self._tend()
        else:
            # It is going to be raised: the block is not entered.
            self._timers.release(key)
            self._timers.told(key)
        if not self.reached and self._unreachable is not None:
            raise self._unreachable.with_traceback(None)

    def _wait_for_the_first(self) -> None:
        # Once: a job whose watchdog is gone must not stall at each block.
        if self._waited:
            return
        self._waited = True
        give_up = time.monotonic() + self._connect_timeout
        while self._connection is None and time.monotonic() < give_up:
            time.sleep(_FIRST_RETRY_SECONDS)
            self._try_connect(at_once=True)

    # -- the connection -----------------------------------------------------------------------

    def _try_connect(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if now < self._retry_at and not at_once:
            return
        try:
            connection = connect(self.path, self._users)
        except OSError as error:
            self._unreachable = error
            self._try_later(now, error)
            return
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        self._connection = connection
        self._file = _file(connection.fileno())
        self._serial += 1
        self._connected_at = now
        self.reached = True

    def _try_later(self, now: float, error: OSError) -> None:
        self._retry_at = now + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, _LAST_RETRY_SECONDS)
        if self._away_since is None:
            self._away_since = now
        elif self.reached and 0 <= self._away_since < now - _SAID_AFTER_SECONDS:
            self._away_since = math.inf  # once
            _logger.warning(
                "blocks have run unwatched for %g s, and will until there is a server: %s",
                _SAID_AFTER_SECONDS,
                error,
            )

    def _hang_up(self) -> bool:
        """Close the connection; false when there was none."""
        connection, self._connection = self._connection, None
        if connection is None:
            return False
        if _file(connection.fileno()) == self._file:
            connection.close()
        else:
            connection.detach()
        return True

    def _lost(self) -> None:
        if not self._hang_up():
            return
        self._timers.nothing_told()
        now = time.monotonic()
        if now - self._connected_at > _TURNED_AWAY_SECONDS:
            self._away_since = None
            self._retry_at = 0.0
            self._retry_seconds = _FIRST_RETRY_SECONDS
        else:
            self._try_later(now, NoServerError(errno.EPIPE, f"{self.path} hangs up at once"))

    def _tell(self) -> None:
        """Tell what has not been told, for as long as there is room; see to it that it will be."""
        self._tell_what_fits()
        if self._timers.untold and self._connection is not None and not self._outlasting:
            # The thread that tells it is a daemon, as it has to be for those who never end it.
            waiting = threading.Thread(
                target=_outlast,
                args=(weakref.ref(self),),
                name="timers-socket-exit",
                daemon=False,
            )
            with contextlib.suppress(RuntimeError):  # no more threads, or too late
                waiting.start()
                self._outlasting = True

    def _tell_what_fits(self) -> None:
        while self._timers.untold:
            key = next(iter(self._timers.untold))
            for line in self._timers.lines(key):
                if self._connection is None:
                    return
                try:
                    self._connection.send(line.encode("ascii"), _FLAGS)
                except BlockingIOError:
                    return
                except OSError:
                    self._lost()
                    return
                self._patience = self._full_timeout  # it reads
            self._timers.told(key)

    def has_told(self) -> bool:
        """Whether all is told, or there is nobody to tell."""
        with self._lock:
            self._outlasting = self._connection is not None and bool(self._timers.untold)
            return not self._outlasting

    # -- the thread that looks after it -------------------------------------------------------

    def _tend(self) -> None:
        if self._tender is None or not self._can_wake():
            self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._wake_file = _file(self._wake_fd)
            arguments = (weakref.ref(self), self._wake_fd)
            self._tender = threading.Thread(
                target=_look_after, args=arguments, name="timers-socket", daemon=True
            )
            try:
                self._tender.start()
            except RuntimeError:  # no more threads: the next call does what it would
                os.close(self._wake_fd)
                self._wake_fd, self._tender = -1, None
                return
        if self._tended != self._to_tend():
            with contextlib.suppress(OSError):
                os.eventfd_write(self._wake_fd, 1)

    def _can_wake(self) -> bool:
        return self._wake_fd >= 0 and _file(self._wake_fd) == self._wake_file

    def _to_tend(self) -> tuple[int, bool]:
        connected = self._connection is not None
        return (self._serial, bool(self._timers.untold)) if connected else (-1, False)

    def tend_once(self) -> tuple[socket.socket | None, int, float | None]:
        """Do what is to be done now; return what to wait for: connection, events, seconds."""
        with self._lock:
            if self._connection is None:
                self._try_connect()
            if self._connection is not None:
                self._tell()
            self._tended = self._to_tend()
            if self._connection is None:
                return None, 0, max(0.0, self._retry_at - time.monotonic())
            events = select.POLLOUT if self._timers.untold else 0
            return self._connection, events, None

    def hung_up(self, connection: socket.socket) -> None:
        """The server closed this connection, by dying for one."""
        with self._lock:
            if self._connection is connection:
                self._lost()

    def close(self) -> None:
        """Hang up and end the thread; what has not been told is lost. For the end of a client."""
        self._hang_up()
        can_wake = self._can_wake()
        fd, self._wake_fd = self._wake_fd, -1
        if can_wake:
            with contextlib.suppress(OSError):
                os.eventfd_write(fd, 1)

    def forked(self) -> None:
        """In a forked child: close what is the parent's, whose thread does not exist here."""
        self._hang_up()
        can_close = self._can_wake()
        fd, self._wake_fd = self._wake_fd, -1
        if can_close:
            os.close(fd)

    def __del__(self) -> None:
        # A client made for a few blocks and forgotten must not cost a descriptor and a thread.
        with contextlib.suppress(Exception):
            self.close()


def _file(fd: int) -> _File | None:
    """What a descriptor is, whatever its number; None when it is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _look_after(reference: weakref.ref[SocketLink], wake_fd: int) -> None:
    """The thread: never holds on to the link while it waits, so that a forgotten one goes."""
    wake_file = _file(wake_fd)
    while _file(wake_fd) == wake_file:
        link = reference()
        if link is None or link._wake_fd != wake_fd:  # noqa: SLF001  # this module's own
            os.close(wake_fd)
            return
        connection, events, seconds = link.tend_once()
        del link
        poll = select.poll()
        poll.register(wake_fd, select.POLLIN)
        fd = -1 if connection is None else connection.fileno()
        if fd >= 0:
            poll.register(fd, events)
        found = dict(poll.poll(None if seconds is None else seconds * 1000 + 1))
        if found.get(wake_fd, 0) & select.POLLIN and _file(wake_fd) == wake_file:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(wake_fd)
        if connection is not None and found.get(fd, 0) & _HUNG_UP:
            link = reference()
            if link is not None:
                link.hung_up(connection)
            del link
        del connection


def _outlast(reference: weakref.ref[SocketLink]) -> None:
    """A thread that keeps the process from ending, for a bounded time, before all is told."""
    exit_by = math.inf
    while (link := reference()) is not None and not link.has_told():
        del link
        if exit_by == math.inf and not threading.main_thread().is_alive():
            exit_by = time.monotonic() + _EXIT_SECONDS
        if time.monotonic() > exit_by:
            return
        time.sleep(_LOOK_SECONDS)
