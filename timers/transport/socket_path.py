"""The path of a Unix socket (unix(7)): who may create it, take it over and be found behind it.

A path in a directory that others can write to could become somebody else's at any moment, and an
abstract name belongs to whoever comes first: both are refused. Nobody else can connect (mode 0600)
unless that is asked for, and the server checks again who connects.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from timers.errors import InsecurePathError, NoServerError, PathOccupiedError, ServerRunningError
from timers.linux.process import Process

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "BACKLOG",
    "Credentials",
    "Listener",
    "check_directory",
    "check_path",
    "connect",
    "listen",
    "peer_credentials",
    "private_directory",
    "remove",
]

_MAX_PATH_BYTES = 107  # sun_path has 108, with the terminating null
_LONGEST_NAME = len("/4194304.sock")
"""In a directory of sockets, by the largest pid that Linux gives."""
_SHORT_DIRECTORY = "/tmp"  # noqa: S108  # every host has it
BACKLOG = 4096
"""As many workers may connect while the server is stopped or being replaced."""
_TAKEOVER_SECONDS = 5.0
_UCRED = struct.Struct("3i")


class Credentials(NamedTuple):
    """Who is at the other end (SO_PEERCRED), as this process's namespaces number it."""

    pid: int
    """0 for a process that is not in this pid namespace or one below it."""
    uid: int
    gid: int


class Listener(NamedTuple):
    """A socket that listens at a path."""

    connections: socket.socket
    path: str
    inode: int | None = None
    """Of the path, when it is ours to remove."""


def peer_credentials(connection: socket.socket) -> Credentials:
    """Return who connected or, on the client's side, who called listen(2): by the kernel's word."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Credentials(*_UCRED.unpack(data))


def private_directory(prefix: str) -> str:
    """Make a directory (mode 0700) with room for sockets in it, and return its path.

    It is where temporary files go, unless that is too deep (the scratch directory of a batch
    system, say): then in ``/tmp``, if that can be.

    :raises OSError: none can be made.
    """
    import tempfile  # noqa: PLC0415  # slow to import, and workers make none

    directory = tempfile.mkdtemp(prefix=prefix)
    if len(os.fsencode(directory)) + _LONGEST_NAME <= _MAX_PATH_BYTES:
        return directory
    try:
        shorter = tempfile.mkdtemp(prefix=prefix, dir=_SHORT_DIRECTORY)
    except OSError:  # who can do without sockets does
        return directory
    os.rmdir(directory)
    return shorter


def check_path(path: str) -> str:
    """Return ``path``, or raise :class:`ValueError` when no socket can, or should, be there."""
    if path.startswith("@") or "\0" in path:
        raise ValueError(
            f"{path!r}: abstract socket names are not used, because anybody can take them; give a "
            "path in a directory of your own"
        )
    if not path or len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise ValueError(
            f"{path!r}: the path of a Unix socket has 1 to {_MAX_PATH_BYTES} bytes (unix(7))"
        )
    return path


def check_directory(path: str) -> None:
    """Raise :class:`InsecurePathError` when others may write to the directory of ``path``."""
    directory = os.path.dirname(path) or "."
    _check_directory(directory, os.stat(directory))


def listen(path: str, mode: int = 0o600) -> Listener:
    """Create the socket at ``path`` and listen; a socket that a dead server left is taken over.

    :param mode: who may connect.
    :raises ServerRunningError: a live server listens there (or is stopped: it would continue).
    :raises PathOccupiedError: something that is not a socket of this user is there; it stays.
    :raises InsecurePathError: others may write to the directory.
    :raises ValueError: not a path for a socket.
    """
    check_path(path)
    with _locked(os.path.dirname(path) or "."):
        # What is at the path cannot become another server's between these steps: all of ours
        # hold the lock.
        with contextlib.suppress(FileNotFoundError):
            _check_stale(path)
            os.unlink(path)
        listener = _new_socket()
        try:
            os.fchmod(listener.fileno(), mode)  # what bind(2) creates has no more than this
            listener.bind(path)
            os.chmod(path, mode)  # and, whatever the umask, no less
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
        return Listener(listener, path, os.lstat(path).st_ino)


def connect(path: str, users: frozenset[int] = frozenset()) -> socket.socket:
    """Connect without waiting, and make sure that it is not to somebody else's server.

    :param users: who, besides this user and root, may be the server.
    :raises NoServerError: nobody listens, or the queue of a server that does not accept is full.
    :raises InsecurePathError: another user listens.
    """
    connection = _new_socket()
    try:
        connection.connect(path)
        server = peer_credentials(connection)
    except OSError as error:
        connection.close()
        raise NoServerError(
            error.errno or errno.EPIPE,
            f"no timer server listens at {path} ({error.strerror or error}); "
            "is it running, and is the path the one that it was given?",
        ) from error
    except BaseException:
        connection.close()
        raise
    if server.uid not in {0, os.geteuid(), *users}:
        connection.close()
        raise InsecurePathError(
            errno.EPERM,
            f"user {server.uid} listens there, neither root nor user {os.geteuid()}: if that is "
            "intended, name it in server_users",
            path,
        )
    return connection


def remove(listener: Listener) -> None:
    """Remove the path if it is still this very socket's."""
    with contextlib.suppress(OSError), _locked(os.path.dirname(listener.path) or "."):
        if os.lstat(listener.path).st_ino == listener.inode:
            os.unlink(listener.path)


def _new_socket() -> socket.socket:
    kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    return socket.socket(socket.AF_UNIX, kind)


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Hold the lock of a directory that only this user (or root) can write to."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check_directory(directory, os.fstat(fd))
        _lock(fd, directory)
        yield
    finally:
        os.close(fd)


def _check_directory(directory: str, found: os.stat_result) -> None:
    others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    sticky = found.st_mode & stat.S_ISVTX  # as /tmp: nobody removes what is another's
    if found.st_uid not in (0, os.geteuid()) or (others_write and not sticky):
        raise InsecurePathError(
            errno.EPERM,
            f"the directory belongs to user {found.st_uid} and has mode "
            f"{stat.S_IMODE(found.st_mode):04o}: others could replace the socket. Use a "
            "directory of your own with mode 0700",
            directory,
        )


def _lock(fd: int, directory: str) -> None:
    give_up = time.monotonic() + _TAKEOVER_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise ServerRunningError(
                    errno.EEXIST,
                    "another timer server is just starting in this directory, or "
                    "somebody else holds its lock",
                    directory,
                ) from None
            time.sleep(0.01)
        else:
            return


def _check_stale(path: str) -> None:
    found = os.lstat(path)
    if not stat.S_ISSOCK(found.st_mode):
        raise PathOccupiedError(
            errno.EEXIST,
            "the timer server's path is taken by something that is no socket; use another path",
            path,
        )
    if found.st_uid != os.geteuid():
        raise PathOccupiedError(
            errno.EEXIST,
            f"the socket belongs to user {found.st_uid}, not to {os.geteuid()}; use another path",
            path,
        )
    with _new_socket() as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return  # nobody listens: its server is dead
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:
                raise PathOccupiedError(
                    errno.EEXIST, "a socket of another kind is at the timer server's path", path
                ) from error
            if error.errno != errno.EAGAIN:  # full: somebody listens and does not accept
                raise
        else:
            # A process that the dead server had just forked, and that has not called execve(2) yet,
            # holds the socket open for a moment longer.
            server = peer_credentials(probe).pid
            if server > 0 and _has_ended(server):
                return
    raise ServerRunningError(
        errno.EEXIST, "a live timer server listens there; stop it or use another path", path
    )


def _has_ended(pid: int) -> bool:
    try:
        Process(pid).close()
    except ProcessLookupError:
        return True
    except OSError:  # it is there, and cannot be identified
        return False
    return False
