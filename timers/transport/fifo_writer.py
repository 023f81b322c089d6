"""The worker's end of the named pipe (fifo(7), pipe(7)): one atomic write for each line.

It keeps its descriptor where the server is one of ours: see :mod:`timers.transport.fifo_reader`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
import threading
import time
from collections import deque
from functools import partial

from timers.errors import InsecurePathError, NoServerError
from timers.forks import reset_in_child
from timers.linux.owned import Identity, identity

from .wire import MAX_LINE_BYTES, bounded

__all__ = ["DEFAULT_CAPACITY", "PAGE_BYTES", "FifoWriter"]

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
DEFAULT_CAPACITY = 16 * PAGE_BYTES
_DRAIN_SECONDS = 0.25
_EXIT_SECONDS = 10.0
"""How long a process that ends waits for a server that is stopped. The lines count; the timers in
them end with the process, whether the server reads of it or not."""
_MOST_MS = 2**31 - 1  # poll(2) takes an int: 24.8 days
_F_GETPIPE_SZ = getattr(fcntl, "F_GETPIPE_SZ", 1032)


class FifoWriter:
    """The client's end: each :meth:`send` is one atomic write of one line.

    :param path: of the pipe; the server creates it.
    :param connect_timeout: seconds to wait, once, for a server that is not there (yet).
    :param full_timeout: seconds to wait for room in a full pipe. After that the line is kept and
        a thread of this process delivers it, in order, as soon as there is room: a server that is
        stopped for a while slows its workers down once, and loses nothing. One that reads, however
        slowly, is waited for.

    Safe from several threads. A forked child opens its own descriptor, and so does a pickled copy.
    """

    _MAX_KEPT = 10_000
    """Lines kept for a stopped server before senders have to wait for each."""

    def __init__(
        self, path: str, *, connect_timeout: float = 1.0, full_timeout: float = 1.0
    ) -> None:
        self.path = path
        self._connect_timeout = connect_timeout
        self._full_timeout = full_timeout
        self._fd = -1
        self._identity: Identity = None
        """Of which file that is."""
        self._reset()
        reset_in_child(self)

    def __reduce__(self) -> tuple[object, ...]:
        make = partial(
            type(self), connect_timeout=self._connect_timeout, full_timeout=self._full_timeout
        )
        return make, (self.path,)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._unreachable = False
        self._kept: deque[bytes] = deque()
        self._patience = self._full_timeout
        """Seconds left to wait for room: used up once, and given back whenever the server reads."""
        self._drainer: threading.Thread | None = None

    def send(self, line: bytes) -> None:
        """Write ``line``, at most PIPE_BUF bytes with its newline.

        Raises :class:`~timers.errors.NoServerError` when nobody reads from the pipe,
        :class:`~timers.errors.InsecurePathError` when the pipe is another user's, and
        :class:`~timers.errors.RequestTooLargeError` for a line that one write might not take.
        """
        if len(line) > MAX_LINE_BYTES:
            bounded(line)  # raises, with the reason
        if self._fd >= 0 and not self._kept:
            try:
                os.write(self._fd, line)
            except OSError:
                pass  # full, or the server is gone: below
            else:
                return
        with self._lock:
            if not self._catch_up() or not self._deliver_patiently(line):
                self._keep(line)

    def _catch_up(self) -> bool:
        """Deliver what was kept; whether all of it went. Waits as long as the server reads.

        A line that is kept behind others is told by nobody when its thread then hangs with the
        interpreter's lock: a server that is only slow has to slow its workers down.
        """
        try:
            while self._kept:
                if not self._deliver_patiently(self._kept[0]):
                    return False
                self._kept.popleft()
        except OSError:
            self._kept.clear()  # what that server knew died with it, and so did their use
        return True

    def _deliver_patiently(self, line: bytes) -> bool:
        went = self._deliver(line, self._patience)
        self._patience = self._full_timeout if went else 0.0
        return went

    def _deliver(self, line: bytes, timeout: float) -> bool:
        """Write ``line`` to whichever server there is; false when its pipe stays full."""
        if self._fd >= 0:
            try:
                return _write(self._fd, line, timeout)
            except OSError as error:
                # EPIPE: that server is gone; there may be another one at the path by now. Or a
                # program that became a daemon has closed whatever it knew nothing of, and the
                # number is nobody's or of a file of its own.
                if error.errno not in (errno.EBADF, errno.EPIPE):
                    raise
                if identity(self._fd) != self._identity:
                    self._fd = -1
        fd = self._open()
        try:
            if _keeps_descriptors(fd):
                if self._fd >= 0:
                    # Replaced in one step: another thread may be writing to the same number.
                    os.dup2(fd, self._fd, inheritable=False)
                    os.close(fd)
                else:
                    self._fd = fd
                self._identity = identity(self._fd)
                fd = -1
                return _write(self._fd, line, timeout)
            # A descriptor of a server that was there before stays: a thread may be about to write
            # to its number, which must not become another file's.
            return _write(fd, line, timeout)
        except OSError as error:
            raise NoServerError(
                error.errno, f"the timer server at {self.path} went away: {error.strerror}"
            ) from error
        finally:
            if fd >= 0:
                os.close(fd)

    def _open(self) -> int:
        # Only the first failure waits: a job whose watchdog is gone must not stall at each block.
        give_up = time.monotonic() + (0 if self._unreachable else self._connect_timeout)
        while True:
            try:
                fd = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                break
            except OSError as error:
                # ENXIO: the pipe is there and nobody reads (fifo(7)).
                waitable = error.errno in (errno.ENOENT, errno.ENXIO)
                if not waitable or time.monotonic() >= give_up:
                    self._unreachable = True
                    raise NoServerError(
                        error.errno,
                        f"no timer server listens at {self.path} ({error.strerror}); "
                        "is it running, and is the path the one that it was given?",
                    ) from error
            time.sleep(0.01)
        found = os.fstat(fd)
        if not stat.S_ISFIFO(found.st_mode):
            os.close(fd)
            raise NoServerError(errno.EPIPE, f"{self.path} is not a named pipe")
        if found.st_uid not in (0, os.geteuid()):
            os.close(fd)
            raise InsecurePathError(
                errno.EPERM,
                f"the named pipe belongs to user {found.st_uid}, neither root nor user "
                f"{os.geteuid()}: it is told nothing; use a path in a directory of your own",
                self.path,
            )
        self._unreachable = False
        return fd

    def _keep(self, line: bytes) -> None:
        if len(self._kept) >= self._MAX_KEPT and self._fd >= 0:
            _wait_writable(self._fd, self._full_timeout)
        self._kept.append(line)
        if self._drainer is None:
            # Not a daemon: a process that ends waits, for a bounded time, until they are sent.
            self._drainer = threading.Thread(target=self._drain, name="timers-fifo", daemon=False)
            self._drainer.start()

    def _drain(self) -> None:
        exit_by: float | None = None
        while True:
            if exit_by is None and not threading.main_thread().is_alive():
                exit_by = time.monotonic() + _EXIT_SECONDS
            if self._fd < 0 or not _wait_writable(self._fd, _DRAIN_SECONDS):
                time.sleep(_DRAIN_SECONDS)
            with self._lock:
                self._catch_up()
                if exit_by is not None and time.monotonic() > exit_by:
                    self._kept.clear()
                if not self._kept:
                    self._drainer = None
                    return

    def close(self) -> None:
        """Close the descriptor; the next :meth:`send` opens another."""
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd >= 0 and identity(fd) == self._identity:
                os.close(fd)

    def __del__(self) -> None:
        # A client made for a few blocks and forgotten must not cost a descriptor for ever.
        with contextlib.suppress(OSError):
            self.close()

    def after_fork(self) -> None:
        """Open another descriptor in a forked child, where nothing is kept either."""
        self._reset()
        with contextlib.suppress(OSError):
            self.close()


def _write(fd: int, line: bytes, timeout: float) -> bool:
    """One whole write, waiting up to ``timeout`` seconds for room; False when there was none."""
    give_up = time.monotonic() + timeout
    while True:
        try:
            os.write(fd, line)
        except BlockingIOError:
            left = give_up - time.monotonic()
            if left <= 0:
                return False
            _wait_writable(fd, left)
        else:
            return True


def _wait_writable(fd: int, timeout: float) -> bool:
    """Wait up to ``timeout`` seconds for room; false at once when nobody reads any more."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    found = poll.poll(min(timeout * 1000, _MOST_MS))
    return not any(events & ~select.POLLOUT for _, events in found)


def _keeps_descriptors(fd: int) -> bool:
    try:
        capacity = fcntl.fcntl(fd, _F_GETPIPE_SZ)
    except OSError:
        return False
    # A user with very many pipes gets ones of one or two pages (pipe(7), pipe-user-pages-soft).
    return capacity != DEFAULT_CAPACITY and capacity >= 4 * PAGE_BYTES
