"""The processes that a worker has started, ended with it.

Killed alone, a worker leaves its helpers behind (those that load its data, pools): orphans with its
sockets and memory, which nobody waits for. What else it has started is not its helper, and is left
alone with everything below it: see :func:`helpers_of`.
"""

from __future__ import annotations

import os
import signal as signals
import time
from typing import TYPE_CHECKING

from timers.bounded import left
from timers.linux import procfs
from timers.linux.process import Process

from .workers import worker_info

if TYPE_CHECKING:
    from collections.abc import Callable

    from .workers import Worker, Workers

__all__ = ["ProcessTree", "helpers_of"]

_CONFIRM_SECONDS = 1.0


class ProcessTree:
    """The descendants of a process, held by pidfd so that none is mistaken for another.

    :param belongs: whether a descendant, all of whose ancestors belong, does so too.
    """

    def __init__(self, belongs: Callable[[Process], bool] = lambda _: True) -> None:
        self._belongs = belongs
        self.found: dict[int, Process] = {}

    def collect(self, parent: Process) -> None:
        """Hold the descendants that ``parent`` has now."""
        children = procfs.children(parent.pid)
        if parent.exited():
            return  # they may be those of another process, which has its pid by now
        for pid in children:
            if pid not in self.found:
                try:
                    child = Process(pid)
                except OSError:  # it has ended, or nothing identifies it
                    continue
                if not self._belongs(child):
                    child.close()
                    continue
                self.found[pid] = child
            self.collect(self.found[pid])

    def kill(self) -> list[int]:
        """SIGKILL all of them; a stopped process cannot fork, so they are frozen first."""
        frozen: set[int] = set()
        while todo := [pid for pid in self.found if pid not in frozen]:
            for pid in todo:
                frozen.add(pid)
                _send_quietly(self.found[pid], signals.SIGSTOP)
                self.collect(self.found[pid])  # what it started since the last time
        killed = [
            pid for pid, process in self.found.items() if _send_quietly(process, signals.SIGKILL)
        ]
        until = time.monotonic() + _CONFIRM_SECONDS
        for process in self.found.values():
            process.exited(left(until))
        return killed

    def close(self) -> None:
        """Let go of all of them."""
        for process in self.found.values():
            process.close()


def helpers_of(worker: Worker, workers: Workers) -> ProcessTree:
    """Return the tree of those descendants of ``worker`` that are there for it alone.

    Not another worker (one that sent a request, or was started with a rank of its own: some
    launchers start ranks from rank 0), not one that made a session of its own (setsid(2): a daemon
    is meant to stay), not another user's, and not this server or an ancestor of it.
    """
    its = procfs.stat(worker.pid)
    session = None if its is None else its.session
    owners = procfs.owners(worker.pid)
    protected = {os.getpid(), *procfs.ancestors(os.getpid())}

    def belongs(child: Process) -> bool:
        known = workers.by_pid.get(child.pid)
        held = None if known is None or known.refusal is not None else known.process
        if held is not None and held.start_time == child.start_time:
            return False
        found = procfs.stat(child.pid)
        if found is None or found.session != session or child.pid in protected:
            return False
        if procfs.owners(child.pid) != owners:
            return False
        info = worker_info(child.pid, child.start_time)
        # Those that it had from its parent are no ranks of its own.
        ranks = ((info.rank, worker.info.rank), (info.local_rank, worker.info.local_rank))
        return all(rank in (None, inherited) for rank, inherited in ranks)

    return ProcessTree(belongs)


def _send_quietly(process: Process, signal: int) -> bool:
    try:
        process.send(signal)
    except OSError:
        return False
    return True
