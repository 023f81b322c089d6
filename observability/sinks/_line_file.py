"""Append lines to a file, a pipe or standard error, one ``write`` each.

Used by one thread, which may block in :meth:`LineFile.write` for as long as a pipe's reader does
not read; :meth:`LineFile.reopen` may be called from any thread and from a signal handler.
"""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING

from ._safe_paths import check_owner, in_shared_directory

if TYPE_CHECKING:
    from pathlib import Path

STANDARD_ERROR = 2


class LineFile:
    """Where lines go.

    :param path: a file, which is created with mode 0640 and appended to; or a FIFO, which needs
        no reader yet: lines fail until there is one. None for standard error.
    :raises OSError: the path cannot be opened for writing, or is in a directory that everybody may
        write to, and a link or somebody else's.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._reopen = False
        self._torn = False
        """Whether the last write ended in the middle of a line (disk full)."""
        try:
            self._open()
        except OSError as error:
            # A FIFO that nobody reads yet (open(2), ENXIO): its reader may come later.
            if error.errno != errno.ENXIO:
                raise

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads along."""
        return self._descriptor is not None and os.isatty(self._descriptor)

    @property
    def columns(self) -> int:
        """Characters of a line of the terminal; 80 where that is not known."""
        try:
            found = os.get_terminal_size(STANDARD_ERROR if self.path is None else self._open())
        except OSError:
            return 80
        return found.columns or 80

    def write(self, line: bytes) -> None:
        """Append ``line``, which must end in a newline, with one system call wherever possible.

        :raises OSError: it could not be written, or not whole. The next line then starts on a line
            of its own.
        """
        refused = self._follow_rotation()
        descriptor = self._open()
        data = memoryview(b"\n" + line if self._torn else line)
        while data:
            try:
                written = os.write(descriptor, data)
            except BlockingIOError:
                # Somebody else made the pipe non-blocking, which is a property all its users share.
                poll = select.poll()
                poll.register(descriptor, select.POLLOUT)
                poll.poll()
                continue
            except OSError as error:
                if error.errno == errno.EPIPE:
                    self.close()  # a FIFO may get another reader
                error.filename = "standard error" if self.path is None else str(self.path)
                raise
            if written:
                self._torn = data[written - 1] != ord("\n")
            data = data[written:]
        if refused is not None:
            raise refused

    def reopen(self) -> None:
        """Have the path opened anew before the next line, after the file there was moved away."""
        self._reopen = True

    def close(self) -> None:
        """Close the file; a later line opens it again. Standard error stays open."""
        descriptor, self._descriptor = self._descriptor, None
        self._torn = False
        if descriptor is not None and self.path is not None:
            os.close(descriptor)

    def _follow_rotation(self) -> OSError | None:
        if not self._reopen or self.path is None:
            return None
        self._reopen = False
        old, self._descriptor = self._descriptor, None
        try:
            self._open()
        except OSError as error:
            # Better a line in the file that was moved away than no line.
            self._descriptor, self._reopen = old, True
            return error if old is not None else None
        self._torn = False
        if old is not None:
            os.close(old)
        return None

    def _open(self) -> int:
        if self._descriptor is None:
            if self.path is None:
                self._descriptor = STANDARD_ERROR
            else:
                # Non-blocking only for the moment of opening: a FIFO without a reader would block.
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK
                descriptor = _open_safely(self.path, flags | os.O_CLOEXEC)
                os.set_blocking(descriptor, True)
                self._descriptor = descriptor
        return self._descriptor


def _open_safely(path: Path, flags: int) -> int:
    if not in_shared_directory(path):
        return os.open(path, flags, 0o640)
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o640)
    try:
        check_owner(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
