"""The server of the pair over a named pipe, for workers that inherited nothing from the server.

Speaks torch's wire format both ways: torch's ``FileTimerClient`` can talk to this server, and this
client to torch's ``FileTimerServer``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .debug_info_logging import log_debug_info_for_expired_timers
from .server.file_requests import FileRequestServer
from .transport.fifo_reader import FifoSource
from .worker.pipe_client import FileTimerClient, FileTimerRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .clock import Clock
    from .events import Observer
    from .server.reaper import BeforeKill, ReapPolicy
    from .transport.source import OwnedSource

__all__ = ["FileTimerClient", "FileTimerRequest", "FileTimerServer"]


class FileTimerServer(FileRequestServer):
    """The server's side: creates the pipe, watches the timers, reaps stuck workers.

    :param file_path: of the pipe to create. A pipe that a dead server left is taken over.
    :param run_id: names the job in events and dumps.
    :param max_interval: seconds, more than 0: how often it wakes up when nothing happens. A reap
        does not wait for it: the server wakes up at each deadline.
    :param daemon: whether the watchdog thread lets the process exit.
    :param log_event: ``log_event(name, request)`` is called with ``watchdog started``, ``watchdog
        stopped`` (both with None), ``timer expired`` and ``kill worker process``, on a thread of
        its own: it may block or raise without consequence.
    :param observer: receives every event; see :mod:`timers.events`. By default, and when there
        is no ``log_event`` either, the ``timers.events`` logger.
    :param before_kill: the step before a kill, called as torch calls
        ``log_debug_info_for_expired_timers``, which is the default.
    :param policy: bounds of the reap, escalation, process tree, who may be reaped.
    :param clock: where the time comes from; for tests.
    :param also: further sources, such as :func:`timers.socket_timer.socket_source`, whose workers
        are watched by this server as well; they are closed with it.
    :raises timers.errors.ServerRunningError: a live server reads from the path.
    :raises timers.errors.PathOccupiedError: something that is not a pipe of this user is there.
    :raises timers.errors.UnsupportedPlatformError: not on Linux.

    Differs from torch: never signals its own process or an ancestor; reaps at the deadline instead
    of up to ``max_interval`` later; refuses to delete what is at the path; a bad line costs that
    line. Constructed in the parent of its workers, it closes itself in forked children.
    """

    def __init__(
        self,
        file_path: str | os.PathLike[str],
        run_id: str = "",
        max_interval: float = 10,
        daemon: bool = True,
        log_event: Callable[[str, FileTimerRequest | None], None] | None = None,
        *,
        observer: Observer | None = None,
        before_kill: BeforeKill | None = None,
        policy: ReapPolicy | None = None,
        clock: Clock | None = None,
        also: Sequence[OwnedSource] = (),
    ) -> None:
        self._file_path = os.fspath(file_path)
        super().__init__(
            [FifoSource(self._file_path), *also],
            address=self._file_path,
            max_interval=max_interval,
            daemon=daemon,
            run_id=run_id,
            log_event=log_event,
            observer=observer,
            before_kill=before_kill,
            policy=policy,
            clock=clock,
        )

    def clear_timers(self, worker_pids: set[int]) -> None:
        """Forget every timer of these pids. Safe from any thread."""
        super().clear_timers(worker_pids)  # overridden for the argument's name, which is torch's

    def _default_before_kill(self) -> BeforeKill:
        # The same as the base class's, by the name of this module: torch's users replace that one.
        return log_debug_info_for_expired_timers
