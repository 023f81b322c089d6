"""Configure a worker from what its launcher put into the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .api import TimerClient
from .file_based_local_timer import FileTimerClient
from .ptrace import allow_dumps_by
from .scopes import configure

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FILE_VARIABLES", "NoTimers", "configure_from_env"]

FILE_VARIABLES = ("TIMERS_FILE", "TORCHELASTIC_TIMER_FILE")
"""Where the path of the pipe is looked for, in this order; ``timers run`` sets both."""
SERVER_PID_VARIABLE = "TIMERS_SERVER_PID"
"""Who may read this process's stack, as ``timers run`` announces itself."""


class NoTimers(TimerClient):
    """A client for jobs that run without a timer server: does nothing."""

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        """Do nothing."""

    def release(self, scope_id: str) -> None:
        """Do nothing."""


def configure_from_env(environ: Mapping[str, str] | None = None) -> TimerClient:
    """Configure the client that the environment offers, and return it.

    Under ``timers run``, and in workers of torchrun with ``TORCHELASTIC_TIMER_FILE``, that is a
    :class:`~timers.file_based_local_timer.FileTimerClient`. Without either, timers are off: blocks
    run unwatched, so that one script serves with and without a watchdog. Where Yama restricts who
    may inspect a process, the server of ``timers run`` is allowed to (:mod:`timers.ptrace`).

    :param environ: in place of ``os.environ``.
    """
    environ = os.environ if environ is None else environ
    path = next((environ[name] for name in FILE_VARIABLES if environ.get(name)), None)
    client: TimerClient = NoTimers() if path is None else FileTimerClient(path)
    configure(client)
    server = environ.get(SERVER_PID_VARIABLE, "")
    if server.isascii() and server.isdigit():
        allow_dumps_by(int(server))
    return client
