"""Clocks that jump: a wall clock that is set, a machine that is suspended, a paused container."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from support.waiting import eventually
from support.wall_clock import HOUR, WallClock, library
from timers.linux import procfs

from .engine_2_stopped import stuck_and_then
from .fault import Fault, Weaker
from .promises import NOBODY_ELSE, REAPED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from support.remote import Remote

    from .observation import Observation, WorkerSeen
    from .stage import Stage

__all__ = ["FAULTS"]


class Clocked(Fault):
    """One whose service, and whose workers, have a wall clock that can be set."""

    def unavailable(self) -> str | None:
        return None if library() else "libfaketime is not installed: apt-get install libfaketime"

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        self.wall = WallClock(stage.directory / "wall")
        stage.environment.update(self.wall.environment)
        # That sleeps between its looks, which libfaketime 0.9.10 makes fail (clock_nanosleep(2)
        # until an absolute time of the monotonic clock: EINVAL).
        stage.arguments = ["--no-hang-report"]
        yield

    def torchs(self, stage: Stage, after: float) -> Remote:
        """A worker with a timer of torch's kind, which knows the wall clock and nothing else."""
        worker = stage.worker(socket=False)
        worker.do("send", worker.pid, "torch's", time.time() + after, int(signal.SIGKILL))
        stage.wait(lambda: "torch's" in (stage.open_scopes() or []))
        return worker

    def let_go(self, stage: Stage, worker: Remote) -> None:
        """It releases its timer and ends, if it is still there."""
        stage.seen.notes["torch's"] = worker.alive
        if worker.alive:
            worker.do("send", worker.pid, "torch's", -1, 0)
            worker.tell("exit")

    def _nobody_else(self, seen: Observation) -> None:
        NOBODY_ELSE.check(seen)
        assert seen.notes["torch's"] is True
        assert seen.count("timers_expirations_total", scope="torch's") == 0
        assert seen.count("timers_releases_total", scope="torch's") == 1


class Stepped(Clocked):
    """An hour forward, then two back, under timers that run."""

    name = "the wall clock is stepped by hours"

    def __init__(self) -> None:
        self.weaker = {NOBODY_ELSE: Weaker("yes, with torch's client, too", self._nobody_else)}

    def strike(self, stage: Stage) -> None:
        self._torchs = self.torchs(stage, HOUR / 2)

    def first(self, stage: Stage) -> WorkerSeen:
        return stuck_and_then(stage, lambda _: self.wall.set(HOUR))

    def between(self, stage: Stage) -> None:
        self.let_go(stage, self._torchs)

    def second(self, stage: Stage) -> WorkerSeen:
        return stuck_and_then(stage, lambda _: self.wall.set(-HOUR), socket=False)


class Stopped(Clocked):
    """One in which everything stands still for a while: the service and all of its workers."""

    @contextlib.contextmanager
    def still(self, stage: Stage, workers: Sequence[Remote]) -> Iterator[None]:
        """Meanwhile nothing runs."""
        pids = [stage.pid, *(worker.pid for worker in workers)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        eventually(lambda: all(_is_stopped(pid) for pid in pids), "everything stands still")
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    found = procfs.stat(pid)
    return found is not None and found.state == "T"


class Suspended(Stopped):
    """The wall clock has gone on for 8 hours, the monotonic one has stood still."""

    name = "the machine is suspended for 8 hours"

    def __init__(self) -> None:
        self.weaker = {
            REAPED: Weaker("yes, suspension does not count", self._reaped),
            NOBODY_ELSE: Weaker("yes, suspension does not count", self._nobody_else),
        }

    def strike(self, stage: Stage) -> None:
        self._torchs = self.torchs(stage, HOUR)

    def first(self, stage: Stage) -> WorkerSeen:
        def suspend(worker: Remote) -> None:
            with self.still(stage, [worker, self._torchs]):
                self.wall.set(8 * HOUR)

        return stuck_and_then(stage, suspend)

    def between(self, stage: Stage) -> None:
        self.let_go(stage, self._torchs)

    def _reaped(self, seen: Observation) -> None:
        REAPED.check(seen)
        for worker in (seen.first, seen.second):
            [expired] = seen.named("timer expired", worker.pid)
            assert 0 <= expired["lateness_seconds"] < HOUR / 2
            assert expired["elapsed_seconds"] < HOUR / 2


class Paused(Stopped):
    """Time goes on for 3 seconds, and nobody else does: a paused container or virtual machine."""

    name = "everything is paused for 3 s (docker pause)"

    def __init__(self) -> None:
        words = "yes, who leaves its block within 0.5 s is spared"
        self.weaker = {NOBODY_ELSE: Weaker(words, self._spared)}

    def strike(self, stage: Stage) -> None:
        self._torchs = self.torchs(stage, HOUR)

    def first(self, stage: Stage) -> WorkerSeen:
        in_time = stage.worker()
        in_time.do("enter", "in time", 4.0)  # more than the other one takes to start
        due = time.monotonic() + 4.0
        stage.wait(lambda: "in time" in (stage.open_scopes() or []))

        def pause(worker: Remote) -> None:
            with self.still(stage, [worker, in_time, self._torchs]):
                in_time.ask("leave", "in time")  # the first thing that it does afterwards
                over = max(time.monotonic() + 3.0, due + 1.0)
                eventually(lambda: time.monotonic() > over, "the pause is over")
            in_time.answer()

        seen = stuck_and_then(stage, pause)
        stage.seen.notes["in time"] = in_time.alive
        in_time.tell("exit")
        return seen

    def between(self, stage: Stage) -> None:
        self.let_go(stage, self._torchs)

    def _spared(self, seen: Observation) -> None:
        self._nobody_else(seen)
        assert seen.notes["in time"] is True
        assert seen.count("timers_expirations_total", scope="in time") == 0


FAULTS = [Stepped(), Suspended(), Paused()]
