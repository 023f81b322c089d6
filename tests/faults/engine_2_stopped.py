"""Processes that are stopped for a while, and one that cannot be ended."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

from support.freezer import Freezer, freezer_root
from support.processes import victim

from .fault import Fault, Weaker
from .observation import WorkerSeen
from .promises import COUNTED, EXPLAINED, NOBODY_ELSE, REAPED, TOLD
from .stage import WORKER_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.remote import Remote

    from .observation import Observation
    from .stage import Stage

__all__ = ["FAULTS", "stuck_and_then"]


def stuck_and_then(
    stage: Stage, then: Callable[[Remote], None], *, socket: bool = True, after: float = 1.0
) -> WorkerSeen:
    """A worker that gets stuck, and to which something happens before its time is up."""
    worker = stage.worker(socket=socket)
    worker.tell("stuck", "stuck", after)
    stage.wait(lambda: "stuck" in (stage.open_scopes() or []))
    then(worker)
    frame = f"{WORKER_FILE}:{worker.hello['stuck_line']} stuck_here"
    return WorkerSeen(pid=worker.pid, frame=frame, code=stage.ended(worker.pid))


class ServiceStopped(Fault):
    """Its workers go on meanwhile: one gets stuck, another leaves a block in time."""

    name = "the service is stopped for 3 s (SIGSTOP, SIGCONT)"

    def __init__(self) -> None:
        self.weaker = {
            REAPED: Weaker("yes, when it goes on", REAPED.check),
            NOBODY_ELSE: Weaker("yes, for no release that it could not read", self._nobody_else),
        }

    def first(self, stage: Stage) -> WorkerSeen:
        in_time = stage.worker()
        in_time.do("enter", "in time", 1.0)
        stage.wait(lambda: "in time" in (stage.open_scopes() or []))
        stage.service.send_signal(signal.SIGSTOP)
        threading.Timer(3.0, stage.service.send_signal, [signal.SIGCONT]).start()
        worker = stage.worker()
        worker.tell("stuck", "stuck", 0.2)
        in_time.do("leave", "in time")
        in_time.do("pairs", "in time", 3000, 0.2)  # more than the socket holds: the last ones wait
        frame = f"{WORKER_FILE}:{worker.hello['stuck_line']} stuck_here"
        seen = WorkerSeen(pid=worker.pid, frame=frame, code=stage.ended(worker.pid))
        stage.seen.notes["in time"] = in_time.alive
        in_time.tell("exit")
        return seen

    def _nobody_else(self, seen: Observation) -> None:
        NOBODY_ELSE.check(seen)
        assert seen.notes["in time"] is True
        for name, count in (("acquires", 3001), ("releases", 3001), ("expirations", 0)):
            assert seen.count(f"timers_{name}_total", scope="in time") == count, name


class WorkerStopped(Fault):
    """The stuck one is stopped in its block and stays so; another is for a while only."""

    name = "workers are stopped (SIGSTOP)"

    def strike(self, stage: Stage) -> None:
        self._stopped = stage.worker(socket=False)
        self._stopped.do("enter", "stopped", 3600)
        stage.wait(lambda: "stopped" in (stage.open_scopes() or []))
        self._stopped.signal(signal.SIGSTOP)

    def first(self, stage: Stage) -> WorkerSeen:
        return stuck_and_then(stage, lambda worker: worker.signal(signal.SIGSTOP))

    def between(self, stage: Stage) -> None:
        self._stopped.signal(signal.SIGCONT)
        self._stopped.do("leave", "stopped")
        self._stopped.tell("exit")
        stage.wait(lambda: stage.open_scopes() == ["bystander"])


class CannotBeKilled(Fault):
    """In uninterruptible sleep: in a frozen cgroup or, where there is none, held by a tracer."""

    name = "the worker cannot be killed for 2 attempts (D)"

    def __init__(self) -> None:
        self.weaker = {
            REAPED: Weaker("as soon as it can be", self._reaped),
            EXPLAINED: Weaker("yes, at each attempt", self._explained),
            COUNTED: Weaker("yes, each attempt", self._counted),
            TOLD: Weaker("yes, each attempt", self._told),
        }

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        stage.arguments = ["--grace", "0.1"]
        yield

    def first(self, stage: Stage) -> WorkerSeen:
        with contextlib.ExitStack() as ends:

            def hold(worker: Remote) -> None:
                root = freezer_root()
                if root is None:
                    ends.enter_context(victim("tracer", str(worker.pid)))
                else:
                    ends.enter_context(Freezer.made(root)).freeze([worker.pid])
                stage.wait(lambda: self._failed(stage) >= 2)
                stage.seen.notes["alive"] = worker.alive
                ends.close()

            return stuck_and_then(stage, hold)

    def _failed(self, stage: Stage) -> float:
        return sum(
            value
            for (name, labels), value in stage.metrics().items()
            if name == "timers_reaps_total" and ("outcome", "still_alive") in labels
        )

    def _reaped(self, seen: Observation) -> None:
        assert seen.notes["alive"] is True
        failed = [line["attempt"] for line in seen.named("reap failed", seen.first.pid)]
        assert failed[:2] == [1, 2]
        REAPED.check(seen)

    def _explained(self, seen: Observation) -> None:
        for worker in (seen.first, seen.second):
            dumps = seen.named("stack dumped", worker.pid)
            assert [dump["frame"] for dump in dumps] == [worker.frame] * len(dumps)
            attempts = len(seen.named("reap failed", worker.pid))
            assert attempts <= len(dumps) <= attempts + 1

    def _told(self, seen: Observation) -> None:
        told = [line["event"] for line in seen.told(seen.first.pid)]
        assert told[:3] == ["timer expired", "stack dumped", "reap failed"]
        assert told[-1] == "kill worker process"
        assert (told.count("timer expired"), told.count("kill worker process")) == (1, 1)
        told = [line["event"] for line in seen.told(seen.second.pid)]
        assert told == ["timer expired", "stack dumped", "kill worker process"]

    def _counted(self, seen: Observation) -> None:
        failed = len(seen.named("reap failed", seen.first.pid))
        count = seen.count
        assert count("timers_reaps_total", scope="stuck", outcome="still_alive") == failed
        assert count("timers_reaps_total", scope="stuck", outcome="killed") == 2
        for name, expected in (("acquires", 2), ("releases", 0), ("expirations", 2)):
            assert count(f"timers_{name}_total", scope="stuck") == expected, name
        for name in ("timers_active", "timers_overdue", "timers_workers"):
            assert count(name) == 0, name


FAULTS = [ServiceStopped(), WorkerStopped(), CannotBeKilled()]
