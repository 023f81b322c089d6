"""A timer server in which one call after the other raises; see also ``test_every_call.py``."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING

from support.processes import VICTIMS

from .engine_2_stopped import stuck_and_then
from .fault import Fault, Weaker
from .promises import COUNTED, EXPLAINED, REAPED, TOLD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .observation import Observation, WorkerSeen
    from .stage import Stage

__all__ = ["FAULTS"]


class Raises(Fault):
    """From before the deadline on, every fifth call of the engine when it is first made."""

    name = "the server's thread raises again and again during a reap"

    def __init__(self) -> None:
        self.weaker = {
            REAPED: Weaker("yes, the next steps make up for it", self._reaped),
            EXPLAINED: Weaker("yes, at least once", self._explained),
            COUNTED: Weaker("gauges exactly, the rest at least once", self._counted),
            TOLD: Weaker("yes, at least once", self._told),
        }

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        stage.command = [sys.executable, str(VICTIMS / "raising_service.py")]
        raised = stage.directory / "raised"
        stage.environment["TIMERS_TEST_RAISED"] = str(raised)
        yield
        stage.seen.notes["raised"] = raised.read_text().splitlines()

    def first(self, stage: Stage) -> WorkerSeen:
        return stuck_and_then(stage, lambda _: stage.service.send_signal(signal.SIGURG))

    def _reaped(self, seen: Observation) -> None:
        REAPED.check(seen)
        roles = [call.partition(":")[0] for call in seen.notes["raised"]]
        assert roles.count("server") >= 10
        assert roles.count("reap") == 1

    def _explained(self, seen: Observation) -> None:
        for worker in (seen.first, seen.second):
            frames = [dump.get("frame") for dump in seen.named("stack dumped", worker.pid)]
            assert worker.frame in frames

    def _counted(self, seen: Observation) -> None:
        assert seen.count("timers_acquires_total", scope="stuck") == 2
        for name in ("expirations", "reaps"):
            assert seen.count(f"timers_{name}_total", scope="stuck") >= 2, name
        for name in ("acquires", "releases"):
            counted = seen.count(f"timers_{name}_total", scope="bystander")
            assert counted == seen.bystander.blocks, name
        for name in ("timers_active", "timers_overdue", "timers_workers"):
            assert seen.count(name) == 0, name

    def _told(self, seen: Observation) -> None:
        for worker in (seen.first, seen.second):
            told = [line["event"] for line in seen.told(worker.pid)]
            assert told[0] == "timer expired"
            assert {"stack dumped"} < set(told)
            assert {"kill worker process", "worker exited"} & set(told)
        assert seen.torn == []


FAULTS = [Raises()]
