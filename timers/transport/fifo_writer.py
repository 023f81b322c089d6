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
import time
from functools import partial
from typing import TYPE_CHECKING

from timers.errors import InsecurePathError, NoServerError
from timers.forks import reset_in_child
from timers.linux.owned import Identity, identity

from .receipt import OvertakenError, Unnoted, is_of_system
from .wire import bounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from .receipt import Receipt

__all__ = ["DEFAULT_CAPACITY", "F_GETPIPE_SZ", "F_SETPIPE_SZ", "PAGE_BYTES", "FifoWriter"]

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
DEFAULT_CAPACITY = 16 * PAGE_BYTES
_MOST_MS = 2**31 - 1  # poll(2) takes an int: 24.8 days
F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)
F_GETPIPE_SZ = getattr(fcntl, "F_GETPIPE_SZ", 1032)
"""Of Linux alone (fcntl(2)), whose numbers these are; elsewhere the calls fail."""


class FifoWriter:
    """The client's end: each :meth:`write` is one atomic write of one line. Never waits for room.

    :param path: of the pipe; the server creates it.
    :param connect_timeout: seconds to wait, once, for a server that is not there (yet).

    Safe from several threads. A forked child opens its own descriptor.
    """

    def __init__(self, path: str, *, connect_timeout: float = 1.0) -> None:
        self.path = path
        self.raw: Callable[[bytes], int] | None = None
        """Writes a line of at most PIPE_BUF bytes to the server of the last :meth:`write`, by one
        call of write(2); None before there was one whose descriptor may be kept."""
        self._connect_timeout = connect_timeout
        self._unreachable = False
        self._fd = -1
        self._file: Identity = None
        """What that descriptor is: its number may be of another file by now."""
        self._capacity = 0
        """In bytes."""
        reset_in_child(self)

    def write(
        self, line: bytes, receipt: Receipt | None = None, totals: tuple[int, int] = (0, 0)
    ) -> None:
        """Write ``line``, to whichever server there is.

        :param receipt: its ``sent`` becomes ``totals`` in the same step as ``line`` is written, so
            that an exception that comes from outside finds both done or neither.
        :raises OvertakenError: nothing was written, for ``receipt`` is not as it was.
        :raises BlockingIOError: the pipe is full.
        :raises NoServerError: nobody reads from it.
        :raises InsecurePathError: it is another user's.
        :raises RequestTooLargeError: one write might not take ``line``.
        """
        bounded(line)
        if receipt is None:
            receipt = Unnoted()
        before = receipt.before
        if self.check():
            try:
                if receipt.sent is not before:  # one step from here
                    raise OvertakenError
                # fmt: off
                receipt.sent = totals; os.write(self._fd, line)  # noqa: E702  # one step
            # fmt: on
            except OSError as error:
                receipt.sent = before  # one step from the call: what interrupts finds it so
                if not is_of_system(error):
                    receipt.sent = totals
                    raise
                # That server is gone; there may be another one at the path by now.
                if error.errno not in (errno.EPIPE, errno.EBADF):
                    raise
            else:
                return
        self._write_anew(line, receipt, totals)

    def check(self) -> bool:
        """Whether there is a descriptor, and its number still is of the pipe.

        A program that became a daemon has closed whatever it knew nothing of, and opened files of
        its own since. Asked before each line, so not by the inode: the capacity is as good, which
        only pipes have, and of those only the ones of our servers this one; a third of the time.
        """
        try:
            if self._fd >= 0 and fcntl.fcntl(self._fd, F_GETPIPE_SZ) == self._capacity:
                return True
        except OSError:
            pass
        self._fd, self.raw = -1, None
        return False

    def _write_anew(self, line: bytes, receipt: Receipt, totals: tuple[int, int]) -> None:
        fd = self._open()
        try:
            if receipt.sent is not receipt.before:  # one step from here
                raise OvertakenError
            # fmt: off
            receipt.sent = totals; os.write(fd, line)  # noqa: E702  # one step
            # fmt: on
            # The descriptor of an earlier server stays: a thread may be about to write to its
            # number, which must not become another file's.
            if (capacity := _capacity_to_keep(fd)) is not None:
                self._keep(fd, capacity)
                fd = -1
        except OSError as error:
            receipt.sent = receipt.before  # likewise
            if not is_of_system(error):
                receipt.sent = totals
                raise
            if isinstance(error, BlockingIOError):
                raise
            raise NoServerError(
                error.errno, f"the timer server at {self.path} went away: {error.strerror}"
            ) from error
        finally:
            if fd >= 0:
                os.close(fd)

    def _keep(self, fd: int, capacity: int) -> None:
        """Keep ``fd`` in place of the descriptor of an earlier server."""
        file = identity(fd)
        while True:
            kept = self._fd
            is_ours = kept >= 0 and identity(kept) in (self._file, file)
            if self._fd == kept:  # no other thread has kept another one meanwhile
                break
        if is_ours:
            # Replaced in one step: another thread may be writing to the same number.
            os.dup2(fd, kept, inheritable=False)
            os.close(fd)
            self._file, self._capacity = file, capacity
        else:
            self._fd, self._file, self._capacity = fd, file, capacity
            self.raw = partial(os.write, fd)

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
                f"{os.geteuid()}: nothing is written to it; use a path in a directory of your own",
                self.path,
            )
        self._unreachable = False
        return fd

    def wait_for_room(self, seconds: float) -> bool:
        """Wait at most ``seconds`` for room; False at once when nobody reads any more."""
        fd = self._fd
        if fd < 0:
            time.sleep(min(seconds, 0.01))  # a pipe that is opened for each line tells nothing
            return True
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        found = poll.poll(min(seconds * 1000, _MOST_MS))
        return not any(events & ~select.POLLOUT for _, events in found)

    def close(self) -> None:
        """Close the descriptor; the next :meth:`write` opens another."""
        fd, self._fd, self.raw = self._fd, -1, None
        if fd >= 0 and identity(fd) == self._file:
            os.close(fd)

    def __del__(self) -> None:
        # A client made for a few blocks and forgotten must not cost a descriptor for ever.
        with contextlib.suppress(OSError):
            self.close()

    def after_fork(self) -> None:
        """Leave the descriptor to the parent."""
        self._unreachable = False
        with contextlib.suppress(OSError):
            self.close()


def _capacity_to_keep(fd: int) -> int | None:
    """Return the capacity of a pipe whose descriptor may be kept; None of any other."""
    try:
        capacity = fcntl.fcntl(fd, F_GETPIPE_SZ)
    except OSError:
        return None
    # A user with very many pipes gets ones of one or two pages (pipe(7), pipe-user-pages-soft).
    return capacity if capacity != DEFAULT_CAPACITY and capacity >= 4 * PAGE_BYTES else None
