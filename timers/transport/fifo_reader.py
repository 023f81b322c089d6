"""The server's end of the named pipe (fifo(7), pipe(7)): creates it, and reads whole lines.

How the two ends know each other: torch's server blocks in ``readline`` for as long as any writer
holds the pipe open, so a client has to open, write and close for each request there. Ours reads
without blocking, so a client may keep its descriptor, which is what makes a request cheap. A
server of ours gives its pipe a capacity other than the default of 16 pages (F_SETPIPE_SZ), which
torch's never does; a client that finds such a capacity keeps its descriptor
(:mod:`timers.transport.fifo_writer`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING

from timers.errors import PathOccupiedError, ServerRunningError
from timers.forks import reset_in_child
from timers.linux.owned import Owned

from ._peek import Peek
from .fifo_writer import DEFAULT_CAPACITY, F_SETPIPE_SZ, PAGE_BYTES
from .wire import Decoder

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from .wire import Message, Rejection

__all__ = ["FifoReader", "FifoSource"]

_CAPACITY = 1 << 20
"""The most that we ask for (bytes): one read of so much takes everything that lay in the pipe."""
_TURN_BYTES = 1 << 17
"""What is returned at a time: hundreds of requests, which take a few milliseconds. With less, the
room that it leaves in a full pipe is gone before a worker that waits for it has its turn."""


class FifoReader:
    """The server's end. Creates the pipe, or takes over one that its server left behind.

    :param path: where; its directory must exist.
    :raises PathOccupiedError: something that is not a FIFO of this user is there; it is left alone.
    :raises ServerRunningError: a live server reads from it.
    :raises OSError: the path cannot be created (no such directory, no permission, read-only).

    The pipe is readable and writable by its owner only. It is held open for writing as well, so
    that it neither reports end-of-file when the last worker leaves nor refuses the next one.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._pipe = Owned(_open_as_server(path))
        self._inode = os.fstat(self._pipe.fd).st_ino
        _enlarge(self._pipe.fd)
        self.peek = Peek(self._pipe.fd)
        """Call it for everything that lies in the pipe, which stays there; None where that cannot
        be known."""
        reset_in_child(self)

    def fileno(self) -> int:
        """Return the descriptor, readable when requests wait."""
        return self._pipe.fd

    def read(self, most: int = _CAPACITY) -> bytes:
        """Return what lies in the pipe now, up to ``most`` bytes. Never blocks.

        By default that is all that can lie there; empty when nothing does.
        """
        try:
            return os.read(self._pipe.fd, most)
        except BlockingIOError:
            return b""

    def close(self, *, remove: bool = True) -> None:
        """Close the pipe and, if it is still the one at its path, remove it. Idempotent."""
        if self._pipe.fd < 0:
            return
        self.peek.close()
        if remove:
            with contextlib.suppress(OSError):
                if os.lstat(self.path).st_ino == self._inode:
                    os.unlink(self.path)
        self._pipe.close()

    def after_fork(self) -> None:
        """Close it in a forked child, or the pipe would outlive the server there."""
        self.close(remove=False)


class FifoSource:
    """The pipe as a source of the watchdog.

    :param path: as of :class:`FifoReader`, and so is what it raises.
    """

    def __init__(self, path: str) -> None:
        self.reader = FifoReader(path)
        self._decoder = Decoder()

    def fileno(self) -> int:
        """Return the descriptor, readable when requests wait."""
        return self.reader.fileno()

    def read(
        self, timeout: float, pids: Collection[int] = ()
    ) -> tuple[Sequence[Message], Sequence[Rejection]]:
        """Return what some lines say; where there are any of ``pids``, all. Never waits.

        The lines of all workers are in one row. A stuck one has sent none since its acquire, and
        must not wait for those of others.
        """
        del timeout
        everything = bool(pids) and self._may_have_lines_of(pids)
        return self._decoder.feed(self.reader.read(_CAPACITY if everything else _TURN_BYTES))

    def _may_have_lines_of(self, pids: Collection[int]) -> bool:
        found = self.reader.peek()
        if found is None:
            return True
        lines = self._decoder.rest + found
        return any(_has_number(lines, b"%d" % pid) for pid in pids)

    def close(self) -> None:
        """Close the pipe and remove its path. Idempotent."""
        self.reader.close()


def _has_number(lines: bytes, digits: bytes) -> bool:
    """Whether it stands there by itself, as every pid does, whatever JSON is around it."""
    at = lines.find(digits)
    while at >= 0:
        end = at + len(digits)
        if not lines[max(at - 1, 0) : at].isdigit() and not lines[end : end + 1].isdigit():
            return True
        at = lines.find(digits, end)
    return False


def _open_as_server(path: str) -> int:
    for _ in range(3):  # another server may create or remove it between our steps
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        try:
            _check_fifo(path)
            # Succeeds only when somebody reads: a server, ours or torch's.
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW))
        except OSError as error:
            if error.errno == errno.ENOENT:
                continue
            if error.errno != errno.ENXIO:
                raise
        else:
            raise _running(path)
        try:
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            # Two servers that start at once both find no reader; the lock decides.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino == os.lstat(path).st_ino:
                os.fchmod(fd, 0o600)
                return fd
        except BlockingIOError:
            os.close(fd)
            raise _running(path) from None
        except FileNotFoundError:
            pass
        os.close(fd)
    raise _running(path)


def _check_fifo(path: str) -> None:
    found = os.lstat(path)
    if not stat.S_ISFIFO(found.st_mode):
        what = (
            "a directory" if stat.S_ISDIR(found.st_mode) else "something that is not a named pipe"
        )
        raise PathOccupiedError(
            errno.EEXIST, f"{what} is at the timer server's path; remove it or use another", path
        )
    if found.st_uid != os.geteuid():
        raise PathOccupiedError(
            errno.EEXIST,
            f"the named pipe belongs to user {found.st_uid}, not to {os.geteuid()}; "
            "use another path",
            path,
        )


def _running(path: str) -> ServerRunningError:
    return ServerRunningError(
        errno.EEXIST,
        "a live timer server reads from this path; stop it or use another path",
        path,
    )


def _enlarge(fd: int) -> None:
    # The largest that an unprivileged user gets by default is 1 MiB (/proc/sys/fs/pipe-max-size).
    # Where no enlargement is granted, a smaller pipe is still recognizable.
    for capacity in (_CAPACITY, 8 * DEFAULT_CAPACITY, 2 * DEFAULT_CAPACITY, 8 * PAGE_BYTES):
        if capacity != DEFAULT_CAPACITY and capacity <= _CAPACITY:
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, F_SETPIPE_SZ, capacity)
                return
