"""Who the workers of a server are, and which of them it may ever signal.

A worker is registered by its first request and held, as a
:class:`~timers.linux.process.Process`, until its exit has been handled. What a request may not
name (init, the server and its ancestors, another user's process, under ``timers run`` anything
outside the command) is registered too, with the reason, so that refusing its next request costs no
system call.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from timers.events import WorkerInfo
from timers.linux import procfs
from timers.linux.process import Process
from timers.linux.ranks import ranks_of

from .statistics import WARM_UP_USES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timers.events import Outcome

    from ._table import Timer

__all__ = ["Worker", "Workers", "worker_info"]

_MAX_PID = 2**31 - 1  # pid_t is a signed 32-bit integer
_MOST_SCOPES = 1000
"""Of how many scopes the uses by one worker are counted; further ones count as warm-up."""


class Worker:
    """What the server knows about one process that sent a request. Compared by identity."""

    __slots__ = (
        "_uses",
        "attempts",
        "descendants",
        "forgotten",
        "info",
        "outcome",
        "owners",
        "pending",
        "pid",
        "process",
        "refusal",
        "start_time",
    )

    def __init__(self, pid: int, process: Process | None, refusal: str | None = None) -> None:
        self.pid = pid
        self.process = process
        """None when it had ended before its first request was read."""
        self.start_time = process.start_time if process else None
        self.owners: frozenset[int] | None = None
        """Whose it was when it sent its first request; None when that was not told."""
        self.refusal = refusal
        """Why its requests are rejected; None for a worker proper."""
        known = process is not None and refusal is None
        self.info = worker_info(pid, self.start_time) if known else WorkerInfo(pid=pid)
        self.pending: list[Timer[Worker]] = []
        """Expired timers that no reap has taken up yet."""
        self.attempts = 0
        self.outcome: Outcome | None = None
        """What the last attempt to end it came to."""
        self.descendants: list[int] = []
        """Which of its descendants that attempt killed."""
        self.forgotten = False
        """Whether its end has been handled."""
        self._uses: dict[str, int] = {}

    def is_warming_up(self, scope_id: str) -> bool:
        """Count one use of a scope; whether it is among the first, which take longer."""
        uses = self._uses.get(scope_id, 0)
        if uses >= WARM_UP_USES:
            return False
        if uses or len(self._uses) < _MOST_SCOPES:
            self._uses[scope_id] = uses + 1
        return True


def worker_info(pid: int, start_time: int | None) -> WorkerInfo:
    """Return who ``pid`` is, with its ranks as it announced them, or as its launcher set them."""
    found = ranks_of(pid)
    return WorkerInfo(
        pid=pid,
        start_time=start_time,
        rank=found.rank,
        local_rank=found.local_rank,
        restart_count=found.restart_count,
    )


class Workers:
    """The registry. Not thread-safe: the watchdog serializes the calls.

    :param descendants_of: when given, only descendants of this process are accepted.
    :param users: whose processes are accepted besides those of this process's own user.
    """

    def __init__(
        self, descendants_of: int | None = None, users: frozenset[int] = frozenset()
    ) -> None:
        self._users = {frozenset({uid}) for uid in users | {os.geteuid()}}
        self._descendants_of = descendants_of
        self.by_pid: dict[int, Worker] = {}
        """The registered workers, alive or not. To be read only."""
        self._reserve = procfs.Reserve()
        self.watched = 0
        """How many workers proper there are."""

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self.by_pid.values()))

    def open(self, pid: int) -> Worker:
        """Register ``pid``, which must not be registered.

        What cannot be a process (0 and negative numbers mean groups to kill(2)) and init are
        refused without being registered, so that requests with made-up pids occupy nothing.

        :raises PermissionError: it is there, and cannot be identified: see
            :class:`~timers.linux.process.Process`. It is not registered then.
        """
        if not 1 < pid <= _MAX_PID:
            return Worker(pid, None, "protected_process")
        try:
            process = Process(pid)
        except ProcessLookupError:
            # It ended already: its requests count, its timers are moot.
            worker = Worker(pid, None)
        else:
            try:
                worker = self._look_at(process)
            except BaseException:
                process.close()
                raise
        self.by_pid[pid] = worker
        self.watched += not worker.refusal
        return worker

    def _look_at(self, process: Process) -> Worker:
        owners = procfs.owners(process.pid)
        refusal = self._refusal(process.pid, owners)
        if refusal is not None and process.exited():
            # It ended while it was looked at, and nobody's owners and parents were read.
            refusal = None
        worker = Worker(process.pid, process, refusal)
        worker.owners = owners
        return worker

    def unlist(self, worker: Worker) -> None:
        """Make room for another process with the same pid."""
        if self.by_pid.get(worker.pid) is worker:
            del self.by_pid[worker.pid]
            self.watched -= not worker.refusal

    def close(self, worker: Worker) -> None:
        """Forget a worker whose exit has been handled."""
        if worker.process is not None:
            worker.process.close()
        self.unlist(worker)

    def has_changed_user(self, worker: Worker) -> bool:
        """Whether it has become another user's process since its first request.

        By a set-user-ID program (execve(2)): same pid, same start time. To be asked before it is
        signalled, by a server that could signal that user's processes and is not to. One of root's
        that gave its rights up is still who it was.
        """
        if worker.owners is None or 0 in worker.owners:
            return False
        owners = procfs.owners(worker.pid)
        # Read of the process that is meant, if that has not ended since.
        ended = worker.process is None or worker.process.exited()
        return owners not in (None, worker.owners) and not ended

    def close_all(self) -> None:
        """Let go of every worker, and of what is kept back to look at them. Idempotent."""
        for worker in self:
            if worker.process is not None:
                worker.process.close()
        self._reserve.close()

    def _refusal(self, pid: int, owners: frozenset[int] | None) -> str | None:
        me = os.getpid()
        if pid == me or pid in procfs.ancestors(me):
            return "protected_process"
        # Root could signal anybody; that it can is no reason to do so for a request on a pipe.
        if owners is None or owners not in self._users:
            return "other_user"
        if self._descendants_of not in (None, pid, *procfs.ancestors(pid)):
            return "outside_job"
        return None
