"""Pids that are given to others."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from support.long_tests import LONG
from support.processes import VICTIMS

from .fault import Fault, Weaker
from .promises import NOBODY_ELSE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .observation import Observation
    from .stage import Stage

__all__ = ["FAULTS"]

_MANY = 10_000 if LONG else 1_000
_AT_ONCE = 1_000
_AFTER_SECONDS = 2.0
"""More than it takes to have read so many requests."""
_PAUSE_SECONDS = 0.05


class Recycled(Fault):
    """Workers end in their blocks, and somebody else has each one's pid when its time is up."""

    name = "pids of workers are recycled by the thousand"

    def __init__(self) -> None:
        self.weaker = {NOBODY_ELSE: Weaker("yes, no process with such a pid", self._nobody_else)}

    def unavailable(self) -> str | None:
        return None if os.geteuid() == 0 else "choosing a pid (clone3, set_tid) needs root"

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        stage.arguments = ["--exclude", "worker exited"]
        yield

    def strike(self, stage: Stage) -> None:
        with subprocess.Popen(
            [sys.executable, VICTIMS / "recycler.py", str(stage._listener.port), stage.pipe],
            env=stage.worker_environment,
        ) as process:
            recycler = stage._listener.accept()
            notes = stage.seen.notes
            acquires = notes["recycled"] = notes["lived"] = 0
            while notes["recycled"] < _MANY:
                recycler.do("workers", _AT_ONCE)
                _wait_for(stage, "timers_workers", _AT_ONCE + 1)
                acquires += 2 * _AT_ONCE
                recycler.do("hurry", _AFTER_SECONDS)
                _wait_for(stage, "timers_acquires_total", acquires, scope="recycled")
                stage.service.send_signal(signal.SIGSTOP)
                recycled = recycler.do("recycle")
                stage.service.send_signal(signal.SIGCONT)
                _wait_for(stage, "timers_workers", 1)
                notes["recycled"] += recycled
                notes["lived"] += recycler.do("survivors")
            recycler.close()
            process.wait()

    def _nobody_else(self, seen: Observation) -> None:
        NOBODY_ELSE.check(seen)
        assert seen.notes["recycled"] >= _MANY
        assert seen.notes["lived"] == seen.notes["recycled"]


def _wait_for(stage: Stage, name: str, count: int, **labels: str) -> None:
    """Until the service shows so many. It is not asked too often, for it has a lot to do."""
    sample = (name, tuple(labels.items()))

    def shown() -> bool:
        time.sleep(_PAUSE_SECONDS)
        return stage.metrics().get(sample) == count

    stage.wait(shown)


FAULTS = [Recycled()]
