"""A process that cannot be mistaken for another: pid, start time and pidfd.

A pid is recycled as soon as its process has been waited for; a pidfd (pidfd_open(2), Linux 5.3)
is not, and a signal sent through it reaches that process or nobody. The start time (proc(5))
covers the moment before the pidfd is open.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal as signals
import struct
import sys

from timers.errors import UnsupportedPlatformError

from . import procfs
from .descriptors import is_reserved
from .owned import Owned

__all__ = ["Process", "exists", "require_linux"]

_POLL_SECONDS = 0.02
"""How often to look when there is no pidfd to wait on (descriptors exhausted)."""
_MOST_MS = 2**31 - 1  # poll(2) takes an int: 24.8 days
_PIDFD_INFO_BYTES = 64  # PIDFD_INFO_SIZE_VER0
_PIDFD_GET_INFO = 3 << 30 | _PIDFD_INFO_BYTES << 16 | 0xFF << 8 | 11  # _IOWR(PIDFS_IOCTL_MAGIC, 11)
_PIDFD_INFO_EXIT = 1 << 3
_MASK = struct.Struct("Q")
_STATUS = struct.Struct("i")
_STATUS_OFFSET = 60


def require_linux(what: str) -> None:
    """Raise :class:`UnsupportedPlatformError` unless this is Linux with pidfds and /proc."""
    if not sys.platform.startswith("linux") or not hasattr(os, "pidfd_open"):
        raise UnsupportedPlatformError(
            errno.ENOSYS,
            f"{what} needs Linux 5.3 or later: it identifies workers by pidfd_open(2) and /proc, "
            f"and this is {sys.platform}. Timer clients work on any POSIX system.",
        )
    try:
        known_as = os.readlink("/proc/self")
    except OSError:
        known_as = None
    if known_as != str(os.getpid()):
        raise UnsupportedPlatformError(
            errno.ENOSYS,
            f"{what} needs /proc (proc(5)), by which it identifies workers: it is not mounted "
            "here, or is that of another pid namespace",
        )


def exists(pid: int) -> bool:
    """Return whether any process has this pid; needs neither /proc nor a right."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


class Process:
    """One process, for as long as this object is open.

    Safe from several threads; not to be used in a forked child (the server closes it there).
    """

    __slots__ = ("_held", "pid", "start_time")

    def __init__(self, pid: int) -> None:
        """Hold ``pid``. Raises ProcessLookupError when there is no such process.

        Where no pidfd is to be had (no descriptors left but the reserved ones, a sandbox that does
        not know the call), the start time alone has to identify it. PermissionError when that
        cannot be read of a process that is there.
        """
        self.pid = pid
        self._held: Owned | None = None
        try:
            self._held = Owned(os.pidfd_open(pid))
        except OSError as error:
            # EINVAL or, in newer kernels, ENOENT: not a pid, or the id of a thread that does not
            # lead its process.
            if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
                raise ProcessLookupError(errno.ESRCH, f"no process {pid}") from error
        if self._held is not None and is_reserved(self._held.fd):
            self.close()
        # Read after the pidfd is open: from here on the pid cannot be recycled unnoticed.
        self.start_time = procfs.start_time(pid)
        if self.start_time is None and self._is_there():
            self.close()
            raise _unreadable(pid)
        if self.start_time is None or (self._held is not None and self.exited()):
            self.close()
            raise ProcessLookupError(errno.ESRCH, f"process {pid} has ended")

    def fileno(self) -> int | None:
        """Return the pidfd, readable once the process has ended; None when there is none."""
        return None if self._held is None else self._held.fd

    def exited(self, timeout: float = 0.0) -> bool:
        """Return whether it has ended (a zombie has), after ``timeout`` seconds at most."""
        if self._held is not None:
            poll = select.poll()
            poll.register(self._held.fd, select.POLLIN)
            return bool(poll.poll(min(max(0.0, timeout) * 1000, _MOST_MS)))
        while not self._looks_gone():  # nor for as long as that is not known
            if timeout <= 0:
                return False
            select.poll().poll(min(timeout, _POLL_SECONDS) * 1000)
            timeout -= _POLL_SECONDS
        return True

    def _looks_gone(self) -> bool | None:
        """Return whether it has ended, as /proc has it; None when that cannot be read."""
        found = procfs.stat(self.pid)
        if found is None:
            return None if self._is_there() else True
        return found.start_time != self.start_time or found.state in "ZX"

    def _is_there(self) -> bool:
        """Return whether any process has this pid; needs neither /proc nor a right."""
        return exists(self.pid) if self._held is None else not self.exited()

    def replaced(self) -> bool:
        """Return whether its pid now belongs to another process."""
        return procfs.start_time(self.pid) not in (None, self.start_time)

    def send(self, signal: int) -> None:
        """Send ``signal`` to this very process.

        Raises ProcessLookupError when it has ended and PermissionError when the kernel refuses, or
        when nothing identifies it.
        """
        if self._held is not None and self._held.is_ours:
            signals.pidfd_send_signal(self._held.fd, signal)
            return
        gone = self._looks_gone()
        if gone is None:
            raise _unreadable(self.pid)
        if gone:
            raise ProcessLookupError(errno.ESRCH, f"process {self.pid} has ended")
        os.kill(self.pid, signal)

    def exit_status(self) -> int | None:
        """Return how it ended, as wait(2) encodes it; None when it runs, or that is not known.

        It is known of a zombie of the same user and, when its parent has waited for it, with Linux
        6.15 and later.
        """
        # Read before the zombie can be gone, or else asked of the pidfd, which stays.
        status = None if self.start_time is None else procfs.exit_status(self.pid, self.start_time)
        if status is None and self._held is not None:
            status = _status_by_pidfd(self._held.fd)
        return status

    def close(self) -> None:
        """Let go of it. Idempotent."""
        held, self._held = self._held, None
        if held is not None:
            held.close()


def _unreadable(pid: int) -> PermissionError:
    return PermissionError(
        errno.EPERM,
        f"process {pid} is there, but this process cannot read /proc/{pid}/stat, which identifies "
        "it: /proc is hidden (hidepid=) or not mounted, or no descriptor is left (ulimit -n)",
    )


def _status_by_pidfd(fd: int) -> int | None:
    """PIDFD_GET_INFO with PIDFD_INFO_EXIT (linux/pidfd.h): of a process that was waited for."""
    info = bytearray(_PIDFD_INFO_BYTES)
    _MASK.pack_into(info, 0, _PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(fd, _PIDFD_GET_INFO, info)
    except OSError:
        return None  # Linux before 6.13, or not yet waited for
    (mask,) = _MASK.unpack_from(info)
    if not mask & _PIDFD_INFO_EXIT:
        return None  # before 6.15
    status: int = _STATUS.unpack_from(info, _STATUS_OFFSET)[0]
    return status
