"""The pair over a Unix socket: the kernel vouches for workers, a server's death loses nothing.

The recommended pair. The kernel says who calls, also from another pid namespace; a client keeps
what it sent and sends it again to the next server, so that a server may be killed, restarted or
replaced at any moment (:mod:`timers.worker._socket_channel`). A timer whose deadline passes while
there is no server is reaped by the next one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .linux.process import require_linux
from .server.file_requests import FileRequestServer
from .server.reaper import ReapPolicy
from .transport.seqpacket import SocketSource
from .transport.socket_path import Listener, listen
from .worker.socket_client import SocketTimerClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from .clock import Clock
    from .events import Observer
    from .server.reaper import BeforeKill
    from .worker.pipe_client import FileTimerRequest

__all__ = ["SocketTimerClient", "SocketTimerServer", "socket_source"]

_OWNER_ONLY = 0o600
_EVERYBODY = 0o666


def socket_source(path: str | os.PathLike[str] | Listener, policy: ReapPolicy) -> SocketSource:
    """Listen at ``path``, or at a socket that was handed over, for the workers of ``policy``.

    :raises OSError: as :class:`SocketTimerServer`.
    """
    if not isinstance(path, Listener):
        path = listen(os.fspath(path), _EVERYBODY if policy.users else _OWNER_ONLY)
    return SocketSource(path, {os.geteuid(), *policy.users})


class SocketTimerServer(FileRequestServer):
    """The server's side: creates the socket, watches the timers, reaps stuck workers.

    :param path: of the socket to create, in a directory that nobody else can write to; one that a
        dead server left is taken over. Or a
        :class:`~timers.transport.socket_path.Listener` that somebody else
        made (socket activation), whose path stays when this server ends.
    :param run_id: names the job in events and dumps.
    :param max_interval: seconds, more than 0: how often it wakes up when nothing happens. A reap
        does not wait for it: the server wakes up at each deadline.
    :param daemon: whether the watchdog thread lets the process exit.
    :param log_event: ``log_event(name, request)``, as of
        :class:`~timers.file_based_local_timer.FileTimerServer`.
    :param observer: receives every event; see :mod:`timers.events`. By default, and when there
        is no ``log_event`` either, the ``timers.events`` logger.
    :param before_kill: the step before a kill, in place of the default one, which takes stacks.
    :param policy: bounds of the reap, escalation, process tree; who may connect and be reaped:
        processes of this user, and of those in ``policy.users``.
    :param clock: where the time comes from; for tests.
    :raises timers.errors.ServerRunningError: a live server listens at the path.
    :raises timers.errors.PathOccupiedError: something that is not a socket of this user is there.
    :raises timers.errors.InsecurePathError: others could put their own socket there.
    :raises timers.errors.UnsupportedPlatformError: not on Linux.
    :raises ValueError: an abstract name, or a path that is too long for a socket.

    Constructed in the parent of its workers, it closes itself in forked children.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Listener,
        run_id: str = "",
        max_interval: float = 10,
        daemon: bool = True,
        log_event: Callable[[str, FileTimerRequest | None], None] | None = None,
        *,
        observer: Observer | None = None,
        before_kill: BeforeKill | None = None,
        policy: ReapPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        require_linux(type(self).__name__)
        policy = policy or ReapPolicy()
        source = socket_source(path, policy)
        super().__init__(
            [source],
            address=source.path,
            max_interval=max_interval,
            daemon=daemon,
            run_id=run_id,
            log_event=log_event,
            observer=observer,
            before_kill=before_kill,
            policy=policy,
            clock=clock,
        )
