"""A directory of ours alone, whose path leaves room for the sockets in it."""

from __future__ import annotations

import os
import tempfile

__all__ = ["private_directory"]

_LONGEST_PATH = 107
"""Of a Unix socket (unix(7)), without its final zero."""
_ROOM = len("/4194304.sock")
"""The longest name in it: the largest pid that Linux gives."""
_SHORT = "/tmp"  # noqa: S108  # every host has it


def private_directory(prefix: str) -> str:
    """Make a directory (mode 0700) and return its path.

    It is where temporary files go, unless that is too deep for sockets (a scratch directory of a
    batch system, say): then in ``/tmp``, if that can be.

    :raises OSError: none can be made.
    """
    directory = tempfile.mkdtemp(prefix=prefix)
    if len(os.fsencode(directory)) + _ROOM <= _LONGEST_PATH:
        return directory
    try:
        shorter = tempfile.mkdtemp(prefix=prefix, dir=_SHORT)
    except OSError:  # who can do without sockets does
        return directory
    os.rmdir(directory)
    return shorter
