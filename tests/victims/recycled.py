"""Recycle a pid while somebody still means the process that had it before.

The first process of a pid namespace of its own (root there): ``recycled.py SCENARIO``. Says
"done", or fails with a traceback.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from pathlib import Path

from support.rig import Rig
from timers.events import Outcome, RequestRejected, WorkerExited, WorkerKilled
from timers.linux import procfs
from timers.linux.process import Process
from timers.testing import FakeSource
from timers.transport.wire import Message

PID = 3000


def child(pid: int, started_after: int | None = None) -> int:
    """Fork a child that waits, has this very pid, and started later than clock tick so-and-so."""
    while True:
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1), "ascii")
        forked = os.fork()
        if forked == 0:
            while True:
                signal.pause()
        start_time = procfs.start_time(forked)
        assert start_time is not None
        if forked == pid and (started_after is None or start_time > started_after):
            return start_time
        end(forked)


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def alive(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def process() -> None:
    """Hold the first; the second is never taken for it."""
    first = child(PID)
    held = Process(PID)
    assert held.start_time == first
    end(PID)
    second = child(PID, first)
    assert held.exited()
    assert held.replaced()
    try:
        held.send(signal.SIGKILL)
    except ProcessLookupError:
        pass
    else:
        raise AssertionError("the signal went somewhere")
    assert alive(PID)
    assert Process(PID).start_time == second


def process_without_pidfd() -> None:
    """The same when descriptors have run out."""

    def exhausted(pid: int, flags: int = 0) -> int:
        raise OSError(errno.EMFILE, "none left", str(pid), None, flags)

    os.pidfd_open = exhausted
    process()


def watchdog() -> None:
    """The timer of the first expires when the second has its pid: the second lives."""
    rig = Rig()
    first = child(PID)
    rig.acquire(PID, "x", after=1.0, start_time=first)
    assert rig.observer.names == ["timer acquired"]
    end(PID)
    child(PID, first)
    rig.clock.advance(1.5)
    rig.step()
    rig.settle()
    assert alive(PID)
    (exited,) = rig.observer.of(WorkerExited)
    assert exited.worker.start_time == first
    assert [timer.scope_id for timer, _ in exited.timers] == ["x"]
    assert rig.observer.of(WorkerKilled) == []
    rig.close()


def late_request() -> None:
    """A request of the first is read when the second has its pid: nobody is held to it."""
    rig = Rig()
    first = child(PID)
    end(PID)
    second = child(PID, first)
    rig.acquire(PID, "x", after=1.0, start_time=first)
    (rejected,) = rig.observer.of(RequestRejected)
    assert (rejected.reason, rejected.worker_pid) == ("identity_mismatch", PID)
    assert rig.watchdog.statistics.rejected["identity_mismatch"] == 1
    rig.acquire(PID, "y", after=1.0, start_time=second)
    assert [timer.scope_id for timer in rig.watchdog.state.table] == ["y"]
    rig.acquire(PID, "z", after=1.0, start_time=first)
    assert rig.watchdog.statistics.rejected["identity_mismatch"] == 2
    assert [timer.scope_id for timer in rig.watchdog.state.table] == ["y"]
    assert rig.watchdog.statistics.workers == 1
    rig.close()


def during_the_dump() -> None:
    """The first dies while its stack is taken, and the second is known before the kill."""
    dumping, go_on = threading.Event(), threading.Event()

    def before_kill(run_id: str, expired: dict[int, list[str]]) -> None:
        del run_id, expired
        dumping.set()
        assert go_on.wait(60)

    rig = Rig(before_kill=before_kill)
    first = child(PID)
    rig.acquire(PID, "x", after=1.0, start_time=first)
    rig.clock.advance(1.5)
    rig.step()
    assert dumping.wait(60)
    end(PID)
    second = child(PID, first)
    rig.acquire(PID, "y", after=100.0, start_time=second)
    assert {timer.scope_id for timer in rig.watchdog.state.table} == {"x", "y"}
    go_on.set()
    rig.settle()
    assert alive(PID)
    (killed,) = rig.observer.of(WorkerKilled)
    assert killed.outcome is Outcome.ALREADY_GONE
    assert killed.worker.start_time == first
    assert [timer.scope_id for timer in rig.watchdog.state.table] == ["y"]
    assert rig.watchdog.statistics.workers == 1
    rig.close()


def in_one_step() -> None:
    """The exit of the first and a request of the second are noticed together: one exit is told."""

    class Ready(FakeSource):
        """Has a descriptor, so that the exit and the request are found in this order."""

        def fileno(self) -> int:
            return descriptor

    descriptor = os.eventfd(1)
    rig = Rig(source=Ready())
    first = child(PID)
    rig.acquire(PID, "x", after=1.0, start_time=first)
    end(PID)
    second = child(PID, first)
    rig.source.put(Message(PID, "y", rig.clock.time() + 9, 9, start_time=second, thread=1))
    rig.step()
    (exited,) = rig.observer.of(WorkerExited)
    assert exited.worker.start_time == first
    assert [timer.scope_id for timer in rig.watchdog.state.table] == ["y"]
    rig.step()
    assert len(rig.observer.of(WorkerExited)) == 1
    assert rig.watchdog.statistics.workers == 1
    rig.close()


SCENARIOS = {
    "process": process,
    "process-without-pidfd": process_without_pidfd,
    "watchdog": watchdog,
    "late-request": late_request,
    "during-the-dump": during_the_dump,
    "in-one-step": in_one_step,
}

if __name__ == "__main__":
    assert os.getpid() == 1
    SCENARIOS[sys.argv[1]]()
    sys.stdout.write("done\n")
