"""What lies in a pipe, without taking it from there (tee(2), which :mod:`os` does not have)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from typing import Any

from timers.linux.owned import Pipe

from .fifo_writer import F_GETPIPE_SZ, F_SETPIPE_SZ

_SPLICE_F_NONBLOCK = 2


class Peek:
    """Call it for what lies in the pipe ``fd`` now; None where the system cannot say, or no more.

    For one thread. The pages of the pipe are not copied for it, but for what is returned.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._copy: Pipe | None = None
        """A pipe of the same capacity, always empty between calls."""
        try:
            # It never blocks, and to wait for the interpreter's lock again would take longer.
            self._tee: Any = ctypes.PyDLL(None, use_errno=True).tee
            self._tee.argtypes = ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint
            self._tee.restype = ctypes.c_ssize_t
            self._copy = Pipe()
            self._capacity = fcntl.fcntl(fd, F_GETPIPE_SZ)
            fcntl.fcntl(self._copy.fd, F_SETPIPE_SZ, self._capacity)
        except (OSError, AttributeError):  # no Linux, or as many pages as this user may have
            self.close()

    def __call__(self) -> bytes | None:
        if self._copy is None or not self._copy.is_ours:
            return None
        size = self._tee(self._fd, self._copy.fd, self._capacity, _SPLICE_F_NONBLOCK)
        if size <= 0:
            return b"" if size == 0 or ctypes.get_errno() == errno.EAGAIN else None
        try:
            return os.read(self._copy.fd, size)
        except BaseException:
            self.close()  # it is not empty: the next copy might not fit
            raise

    def close(self) -> None:
        """Give its descriptor back. Idempotent."""
        if self._copy is not None:
            self._copy.close()
            self._copy = None
