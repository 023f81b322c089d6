"""Who sends the requests, and when they exit: workers held by pidfd, watched by epoll(7)."""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from timers.linux.process import Process

    from .statistics import Statistics
    from .workers import Worker, Workers

__all__ = ["Roster", "ending"]

_LONGEST_SECONDS = 86_400.0
"""epoll_wait(2) takes milliseconds as an int."""


class Roster:
    """The workers of one server, each watched until its exit has been handled.

    :param workers: the registry.
    :param statistics: where the number of workers is kept.
    :param source_fd: of where requests come from, to be waited on as well.
    :param on_exit: is called with a worker whose pid is found to belong to another process.

    For the watchdog's thread, or under its lock; :meth:`wake` is for anybody.
    """

    def __init__(
        self,
        workers: Workers,
        statistics: Statistics,
        source_fd: int | None,
        on_exit: Callable[[Worker], None],
    ) -> None:
        self.workers = workers
        self._statistics = statistics
        self._on_exit = on_exit
        self._gone: list[Worker] = []
        """Those found to have ended otherwise than by waiting for it."""
        self._watched: dict[int, Worker] = {}
        self._unwatched: set[Worker] = set()
        """Those whose exit epoll cannot report, for want of descriptors: looked at each time."""
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        if source_fd is not None:
            self._epoll.register(source_fd, select.EPOLLIN)

    def take_gone(self) -> list[Worker]:
        """Those of :meth:`note_gone`, since the last call."""
        gone, self._gone = self._gone, []
        return gone

    def wait(self, timeout: float) -> list[Worker]:
        """Sleep until a request waits, a worker exits or somebody wakes us; return who exited.

        :param timeout: seconds to sleep at most.
        """
        exited = []
        for fd, _ in self._epoll.poll(min(timeout, _LONGEST_SECONDS)):
            if fd == self._wake_fd:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)
            elif worker := self._watched.get(fd):
                exited.append(worker)
        return exited + [worker for worker in list(self._unwatched) if _has_ended(worker)]

    def wake(self) -> None:
        """Make a sleeping :meth:`wait` return. Safe from any thread and after :meth:`close`."""
        fd = self._wake_fd
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.eventfd_write(fd, 1)

    def identify(self, pid: int, start_time: int | None) -> Worker | None:
        """Find or register who sent a request; None when that process is gone and replaced."""
        worker = self.workers.by_pid.get(pid)
        if worker is not None:
            if worker.process is None:
                if worker.start_time is None:
                    worker.start_time = start_time
                    return worker
            elif not worker.process.exited():
                return None
            self._on_exit(worker)
            self.workers.unlist(worker)  # one that is being reaped keeps all but its place
        worker = self.workers.open(pid)
        if worker.process is None:
            if worker.refusal is None:
                worker.start_time = start_time
                self.note_gone(worker)
        elif start_time is not None and start_time != worker.start_time:
            self.workers.close(worker)
            return None
        else:
            try:
                self._watch(worker, worker.process)
            except BaseException:
                self.workers.close(worker)  # or nobody would notice its exit
                raise
        self._statistics.workers = self.workers.watched
        return worker

    def note_gone(self, worker: Worker) -> None:
        """Have the exit of ``worker`` handled by the next step, after the requests read then."""
        self._gone.append(worker)
        self.wake()

    def _watch(self, worker: Worker, process: Process) -> None:
        fd = process.fileno()
        if fd is not None:
            with contextlib.suppress(OSError):
                self._epoll.register(fd, select.EPOLLIN)
                self._watched[fd] = worker
                return
        self._unwatched.add(worker)

    def unwatch(self, worker: Worker) -> None:
        """Do not report the exit of ``worker`` again."""
        self._unwatched.discard(worker)
        fd = worker.process.fileno() if worker.process else None
        if fd is not None and self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def look_for_exits(self) -> list[Worker]:
        """The registered workers that have ended, found by looking at each."""
        return [worker for worker in self.workers if _has_ended(worker)]

    def forget(self, worker: Worker) -> None:
        """Let go of a worker whose end has been handled."""
        self.unwatch(worker)
        self.workers.close(worker)
        self._statistics.workers = self.workers.watched
        worker.forgotten = True

    def close(self) -> None:
        """Give back every descriptor. Call it once."""
        self.workers.close_all()
        self._epoll.close()
        fd, self._wake_fd = self._wake_fd, -1
        with contextlib.suppress(OSError):
            os.close(fd)


def _has_ended(worker: Worker) -> bool:
    return worker.process is None or worker.process.exited()


def ending(process: Process | None) -> dict[str, int]:
    """What a process exited with, or the signal that ended it, where the kernel tells."""
    status = None if process is None else process.exit_status()
    if status is None:
        return {}
    code = os.waitstatus_to_exitcode(status)
    return {"exit_code": code} if code >= 0 else {"exit_signal": -code}
