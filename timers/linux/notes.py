"""What a process says of itself to whoever watches it: small files in a directory of its job.

``timers run`` makes the directory and names it in the environment. A reader trusts nothing: nothing
here follows a link, blocks, or reads what is not the process's own.
"""

from __future__ import annotations

import os
import stat

from . import procfs

__all__ = ["DIRECTORY_VARIABLE", "open_note", "read_note"]

DIRECTORY_VARIABLE = "TIMERS_RECORDER_DIR"
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


def open_note(directory: str, kind: str) -> int:
    """Make this process's note anew; return a descriptor for writing it.

    :param directory: what ``TIMERS_RECORDER_DIR`` says.
    :param kind: how its name ends.
    :raises OSError: it cannot be made there.
    """
    return os.open(_path(directory, os.getpid(), kind), _FLAGS, 0o600)


def read_note(pid: int, kind: str, *, most: int, environment: dict[str, str] | None = None) -> str:
    """Return what ``pid`` wrote; an empty text where there is nothing. Never blocks or raises.

    :param most: bytes that are read.
    :param environment: of the process, where the caller has read it.
    """
    found = procfs.environment(pid) if environment is None else environment
    directory = found.get(DIRECTORY_VARIABLE)
    if not directory:
        return ""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(_path(directory, pid, kind), flags)
    except (OSError, ValueError):
        return ""
    try:
        about = os.fstat(fd)
        own = about.st_uid == os.stat(f"/proc/{pid}").st_uid
        if not own or not stat.S_ISREG(about.st_mode):
            return ""
        return os.read(fd, most).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def _path(directory: str, pid: int, kind: str) -> str:
    return os.path.join(directory, f"{pid}.{kind}")
