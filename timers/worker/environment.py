"""Configure a worker from what its launcher put into the environment."""

from __future__ import annotations

import os
import signal as signals
from typing import TYPE_CHECKING, SupportsInt

from timers.auto import start_worker_server
from timers.linux.ptrace import allow_dumps_by
from timers.linux.ranks import announce

from . import scopes
from .client import TimerClient
from .pipe_client import FileTimerClient
from .scopes import configure

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "FILE_VARIABLES",
    "SERVER_PID_VARIABLE",
    "SOCKET_VARIABLE",
    "NoTimers",
    "allow_dumps",
    "configure_from_env",
    "ensure_configured",
    "offered_client",
]

SOCKET_VARIABLE = "TIMERS_SOCKET"
"""Where the path of the Unix socket is looked for first; ``timers run`` sets it."""
FILE_VARIABLES = ("TIMERS_FILE", "TORCHELASTIC_TIMER_FILE")
"""Where the path of the pipe is looked for, in this order; ``timers run`` sets both."""
SERVER_PID_VARIABLE = "TIMERS_SERVER_PID"
"""Who may read this process's stack, as ``timers run`` announces itself."""
_PID_DIGITS = 10


class NoTimers(TimerClient):
    """A client for jobs that run without a timer server: does nothing."""

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        """Do nothing."""

    def release(self, scope_id: str) -> None:
        """Do nothing."""


def configure_from_env(environ: Mapping[str, str] | None = None) -> TimerClient:
    """Configure the client that the environment offers, and return it.

    Under ``timers run`` that is a :class:`~timers.socket_timer.SocketTimerClient` for the socket in
    ``TIMERS_SOCKET``. Else, with ``TIMERS_FILE`` and in workers of torchrun with
    ``TORCHELASTIC_TIMER_FILE``, it is a :class:`~timers.file_based_local_timer.FileTimerClient`.
    Without any, timers are off: blocks run unwatched, so that one script serves with and without a
    watchdog. Where Yama restricts who
    may inspect a process, the server of ``timers run`` is allowed to (:mod:`timers.linux.ptrace`).

    :param environ: in place of ``os.environ``.
    """
    environ = os.environ if environ is None else environ
    client = offered_client(environ) or NoTimers()
    configure(client)
    allow_dumps(environ)
    announce(environ)
    start_worker_server(environ)
    return client


def ensure_configured() -> None:
    """Configure the client that the environment offers, or none, unless there is one already."""
    if scopes._client is None:
        configure_from_env()


def offered_client(
    environ: Mapping[str, str],
    *,
    signal: SupportsInt = signals.SIGKILL,
    on_error: str | None = None,
) -> TimerClient | None:
    """Make the client that ``environ`` offers, without configuring it; None where it offers none.

    :param signal: as for the clients.
    :param on_error: as for the clients.
    """
    if environ.get(SOCKET_VARIABLE):
        from .socket_client import SocketTimerClient  # noqa: PLC0415  # sockets are slow to import

        return SocketTimerClient(environ[SOCKET_VARIABLE], signal, on_error=on_error)
    for name in FILE_VARIABLES:
        if environ.get(name):
            return FileTimerClient(environ[name], signal, on_error=on_error)
    return None


def allow_dumps(environ: Mapping[str, str]) -> None:
    """Let the server of ``timers run`` read this process's stack, where Yama would refuse it."""
    server = environ.get(SERVER_PID_VARIABLE, "")
    if server.isascii() and server.isdigit() and len(server) <= _PID_DIGITS:
        allow_dumps_by(int(server))


def _offer() -> TimerClient | None:
    names = (SOCKET_VARIABLE, *FILE_VARIABLES)
    return configure_from_env() if any(os.environ.get(name) for name in names) else None


scopes.offer = _offer
