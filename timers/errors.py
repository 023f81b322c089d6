"""Every exception this package raises on its own account, as one small tree.

Each class also derives from the standard exception a caller would expect (``BrokenPipeError``
for a server that is not there, ``FileExistsError`` for a path that is taken), so code written
for :mod:`torch.distributed.elastic.timer` or for plain Python keeps working.
"""

from __future__ import annotations

__all__ = [
    "ClientNotConfiguredError",
    "InsecurePathError",
    "NoServerError",
    "PathOccupiedError",
    "RequestTooLargeError",
    "ServerRunningError",
    "TimerError",
    "UnsupportedPlatformError",
]


class TimerError(Exception):
    """Base class: ``except TimerError`` catches whatever this package raises by itself."""


class ClientNotConfiguredError(TimerError, RuntimeError):
    """``expires()`` was entered, and neither ``configure()`` nor ``client=`` gave a client."""


class NoServerError(TimerError, BrokenPipeError):
    """A request found no timer server that listens (torch: ``BrokenPipeError``)."""


class RequestTooLargeError(TimerError, RuntimeError):
    """A request does not fit into one atomic write (torch: ``RuntimeError``)."""


class ServerRunningError(TimerError, FileExistsError):
    """Another live server already reads from the path."""


class PathOccupiedError(TimerError, FileExistsError):
    """The path is taken by something that is not a FIFO of ours; it is never deleted."""


class InsecurePathError(TimerError, PermissionError):
    """What is at this path is another user's, or could become that; it is not used."""


class UnsupportedPlatformError(TimerError, OSError):
    """This part needs Linux (pidfd, /proc); the message says which facility is missing."""
