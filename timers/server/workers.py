"""The workers of a server: which processes they are, when they exit, which of them it may signal.

A worker is registered by its first request, held as a :class:`~timers.linux.process.Process`
(pidfd) and watched by epoll(7) until its exit has been handled. What a request may not name (init,
the server and its ancestors, another user's process, under ``timers run`` anything outside the
command) is registered too, with the reason, so that refusing its next request costs no system call.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING

from timers.events import WorkerInfo
from timers.linux import procfs
from timers.linux.descriptors import Reserve
from timers.linux.labels import name_of
from timers.linux.owned import Wakeup, close_epoll, identity
from timers.linux.process import Process
from timers.linux.ranks import ranks_of

from .statistics import WARM_UP_USES, Statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .table import Timer

__all__ = ["Worker", "Workers", "worker_info"]

_MAX_PID = 2**31 - 1  # pid_t is a signed 32-bit integer
_MOST_SCOPES = 1000
"""Of how many scopes the uses by one worker are counted; further ones count as warm-up."""
_LONGEST_SECONDS = 86_400.0
"""epoll_wait(2) takes milliseconds as an int."""


class Worker:
    """What the server knows about one process that sent a request. Compared by identity."""

    def __init__(self, pid: int, process: Process | None, refusal: str | None = None) -> None:
        self.pid = pid
        self.process = process
        """None when it had ended before its first request was read."""
        self.start_time = process.start_time if process else None
        """As it sends it: by its own clock. By this server's it is the process's start time."""
        self.clock_skew_ns: int | None = 0
        """By how much its CLOCK_MONOTONIC is ahead of ours; None when that is not known."""
        if process is not None:
            self.read_clock()
        self.owners: frozenset[int] | None = None
        """Its user ids when it sent its first request; None when they could not be read."""
        self.refusal = refusal
        """Why its requests are rejected; None for a worker proper."""
        self.is_certain = True
        """Whether that was found out, rather than that something could not be read."""
        known = process is not None and refusal is None
        self.info = worker_info(pid, self.start_time) if known else WorkerInfo(pid=pid)
        self.pending: list[Timer[Worker]] = []
        """Expired timers that no reap is for yet."""
        self.outers = 0
        """How many timers are kept of blocks around its open ones, of the same scope."""
        self.attempts = 0
        self.concluded = False
        """Whether its reap has been reported, be it that somebody's own lets it live."""
        self.forgotten = False
        """Whether its end has been handled."""
        self._uses: dict[str, int] = {}

    def read_clock(self) -> tuple[int, int] | None:
        """Compare its clocks with ours: see :func:`timers.linux.procfs.clock_skew`."""
        found = procfs.clock_skew(self.pid)
        self.clock_skew_ns = None if found is None else found[0]
        return found

    def read_ranks(self) -> None:
        """Find out its ranks again, if it had none: some are given theirs late, as Ray's."""
        if self.info.rank is None and self.refusal is None and not self.has_ended:
            found = worker_info(self.pid, self.start_time)
            if found.rank is not None:
                self.info = found

    def began_at(self, start_time: int) -> bool:
        """Return whether ``start_time``, which was sent, is that of this process."""
        if start_time != self.start_time and self.start_time is not None:
            _, ahead_ns = self.read_clock() or (0, 0)
            ticks = ahead_ns * procfs.TICKS_PER_SECOND // 1_000_000_000
            if ticks and abs(start_time - ticks - self.start_time) <= 1:  # both were rounded
                self.start_time = start_time
        return start_time == self.start_time

    @property
    def has_ended(self) -> bool:
        """Whether the process has exited."""
        return self.process is None or self.process.exited()

    def exit_fields(self) -> dict[str, int]:
        """Return what it exited with, or the signal that ended it, where the kernel says so."""
        status = None if self.process is None else self.process.exit_status()
        if status is None:
            return {}
        code = os.waitstatus_to_exitcode(status)
        return {"exit_code": code} if code >= 0 else {"exit_signal": -code}

    def is_warming_up(self, scope_id: str) -> bool:
        """Count one use of a scope; return whether it is among the first, which take longer."""
        uses = self._uses.get(scope_id, 0)
        if uses >= WARM_UP_USES:
            return False
        if uses or len(self._uses) < _MOST_SCOPES:
            self._uses[scope_id] = uses + 1
        return True


def worker_info(pid: int, start_time: int | None) -> WorkerInfo:
    """Return who ``pid`` is, with its ranks as it announced them, or as its launcher set them."""
    environment = procfs.environment(pid)
    found = ranks_of(pid, environment)
    return WorkerInfo(
        pid=pid,
        start_time=start_time,
        rank=found.rank,
        local_rank=found.local_rank,
        restart_count=found.restart_count,
        name=name_of(pid, environment),
    )


class Workers:
    """The registered workers of one server, each watched until its exit has been handled.

    :param descendants_of: when given, only descendants of this process are accepted.
    :param users: whose processes are accepted besides those of this process's own user.
    :param sources: descriptors that :meth:`wait` waits for as well: where requests come from.
    :param statistics: counts them.
    :param on_exit: is called with a worker whose pid is found to belong to another process.

    For the watchdog's thread, or under its lock; :meth:`wake` is for any thread.
    """

    def __init__(
        self,
        descendants_of: int | None = None,
        users: frozenset[int] = frozenset(),
        *,
        sources: Iterable[int] = (),
        statistics: Statistics | None = None,
        on_exit: Callable[[Worker], None] = lambda _: None,
    ) -> None:
        self._users = {frozenset({uid}) for uid in users | {os.geteuid()}}
        self._descendants_of = descendants_of
        self._statistics = statistics or Statistics()
        self._on_exit = on_exit
        self.by_pid: dict[int, Worker] = {}
        """The registered workers, alive or not. To be read only."""
        self.watched = 0
        """How many workers there are whose requests are not refused."""
        self._gone: list[Worker] = []
        """Those found to have ended otherwise than by waiting for it."""
        self._pidfds: dict[int, Worker] = {}
        self._without_pidfd: set[Worker] = set()
        """Those whose exit epoll cannot report, for want of descriptors: checked each time."""
        self._reserve = Reserve()
        self._wakeup = Wakeup()
        self._wakeup_identity = identity(self._wakeup.fd)
        self._epoll = select.epoll()
        for fd in (self._wakeup.fd, *sources):
            self._epoll.register(fd, select.EPOLLIN)

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self.by_pid.values()))

    # -- which process it is ------------------------------------------------------------------

    def identify(self, pid: int, start_time: int | None) -> Worker | None:
        """Find or register who sent a request; None when that process is gone and replaced."""
        worker = self.by_pid.get(pid)
        if worker is not None:
            if worker.process is None:
                if worker.start_time is None:
                    worker.start_time = start_time
                    return worker
            elif not worker.process.exited():
                return None
            self._on_exit(worker)
            self._unlist(worker)  # one that is being reaped keeps all but its place
        worker = self.register(pid)
        try:
            if worker.process is None:
                if worker.refusal is None:
                    worker.start_time = start_time
                    self.note_gone(worker)
            elif start_time is not None and not worker.began_at(start_time):
                self.forget(worker)
                return None
            else:
                self._watch(worker, worker.process)
        except BaseException:
            self.forget(worker)  # or nobody would notice its exit
            raise
        return worker

    def register(self, pid: int) -> Worker:
        """Register ``pid``, which must not be registered. Its exit is not watched yet.

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
                worker = self._check(process)
            except BaseException:
                process.close()
                raise
        self.by_pid[pid] = worker
        self.watched += not worker.refusal
        self._statistics.watching(self.watched)
        return worker

    def _check(self, process: Process) -> Worker:
        owners = procfs.owners(process.pid)
        refusal, is_certain = self._refusal(process.pid, owners)
        if refusal is not None and process.exited():
            # It ended while it was read about, and nobody's owners and parents were read.
            refusal = None
        worker = Worker(process.pid, process, refusal)
        worker.owners = owners
        worker.is_certain = is_certain
        return worker

    def _refusal(self, pid: int, owners: frozenset[int] | None) -> tuple[str | None, bool]:
        """Return why ``pid`` may not be a worker, if so, and whether that was found out."""
        me = os.getpid()
        if pid == me or pid in procfs.ancestors(me):
            return "protected_process", True
        # Root could signal anybody; that it can is no reason to do so for a request on a pipe.
        if owners is None or owners not in self._users:
            return "other_user", owners is not None
        if self._descendants_of in (None, pid):
            return None, True
        chain = procfs.ancestors(pid)
        if self._descendants_of in chain:
            return None, True
        top = procfs.stat(chain[-1] if chain else pid)
        return "outside_job", chain[-1:] == [1] or (top is not None and top.parent == 0)

    def check_again(self, worker: Worker) -> None:
        """Find out anew whether ``worker`` is refused, if something could not be read before."""
        if worker.is_certain or worker.process is None:
            return
        found = self._check(worker.process)
        worker.refusal, worker.owners, worker.is_certain = (
            found.refusal,
            found.owners,
            found.is_certain,
        )
        worker.info = found.info
        self.watched += not worker.refusal
        self._statistics.watching(self.watched)

    def has_changed_user(self, worker: Worker) -> bool:
        """Return whether it has become another user's process since its first request.

        By a set-user-ID program (execve(2)): same pid, same start time. To be asked before it is
        signalled, by a server that could signal that user's processes and is not to. One of root's
        that gave its rights up is still who it was.
        """
        if worker.owners is None or 0 in worker.owners:
            return False
        owners = procfs.owners(worker.pid)
        # Read of the process that is meant, if that has not ended since.
        return owners not in (None, worker.owners) and not worker.has_ended

    def forget(self, worker: Worker) -> None:
        """Let go of a worker whose exit has been handled. Idempotent."""
        self.unwatch(worker)
        if worker.process is not None:
            worker.process.close()
        self._unlist(worker)
        worker.forgotten = True
        worker.pending = []  # each holds its worker, and the memory of a board with its descriptor

    def _unlist(self, worker: Worker) -> None:
        """Make room for another process with the same pid."""
        if self.by_pid.get(worker.pid) is worker:
            del self.by_pid[worker.pid]
            self.watched -= not worker.refusal
            self._statistics.watching(self.watched)

    # -- when it exits ------------------------------------------------------------------------

    def wait(self, timeout: float) -> list[Worker]:
        """Sleep until a request waits, a worker exits or :meth:`wake`; return who exited.

        :param timeout: seconds to sleep at most.
        """
        exited = []
        for fd, _ in self._epoll.poll(min(timeout, _LONGEST_SECONDS)):
            if fd == self._wakeup.fd:
                self._wakeup.clear()
            elif worker := self._pidfds.get(fd):
                exited.append(worker)
        return exited + [worker for worker in list(self._without_pidfd) if worker.has_ended]

    def wake(self) -> None:
        """Make a sleeping :meth:`wait` return. Safe from any thread and after :meth:`close`."""
        self._wakeup.wake()

    def note_gone(self, worker: Worker) -> None:
        """Have the exit of ``worker`` handled by the next step, after the requests read then."""
        self._gone.append(worker)
        self.wake()

    def take_gone(self) -> list[Worker]:
        """Return those of :meth:`note_gone`, since the last call."""
        gone, self._gone = self._gone, []
        return gone

    def _watch(self, worker: Worker, process: Process) -> None:
        fd = process.fileno()
        if fd is not None:
            with contextlib.suppress(OSError):
                self._epoll.register(fd, select.EPOLLIN)
                self._pidfds[fd] = worker
                return
        self._without_pidfd.add(worker)

    def unwatch(self, worker: Worker) -> None:
        """Do not report the exit of ``worker`` again."""
        self._without_pidfd.discard(worker)
        fd = worker.process.fileno() if worker.process else None
        if fd is not None and self._pidfds.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        """Give back every descriptor. Idempotent."""
        self._reserve.close()
        for worker in self:
            if worker.process is not None:
                worker.process.close()
        close_epoll(self._epoll, self._wakeup_identity)
        self._wakeup.close()
