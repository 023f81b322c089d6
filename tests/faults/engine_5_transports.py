"""Writers that die in the middle of a message."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from timers.linux import procfs

from .fault import Fault, Weaker
from .promises import COUNTED, without_rejections

if TYPE_CHECKING:
    from support.remote import Remote

    from .observation import Observation
    from .stage import Stage

__all__ = ["FAULTS"]

_BUSY_SECONDS = 0.002
_LOOKS = 4
"""So often in a row a process has to be found asleep after it has been busy for so long."""


class HalfALine(Fault):
    """Somebody wrote the beginning of a line into the pipe; the next line follows it."""

    name = "half a line is in the pipe"
    transports = ("pipe", "socket")

    def __init__(self) -> None:
        self.weaker = {COUNTED: Weaker("yes, and the half line", self._counted)}

    def strike(self, stage: Stage) -> None:
        fd = os.open(stage.pipe, os.O_WRONLY)
        os.write(fd, b'{"version": 1, "pid": 4711, "scope_i')
        os.close(fd)

    def _counted(self, seen: Observation) -> None:
        assert seen.count("timers_requests_rejected_total") == 1
        assert seen.count("timers_requests_rejected_total", reason="not_json") == 1
        without_rejections(seen)


class KilledWhileSending(Fault):
    """The service is stopped, its workers wait for room, and are killed."""

    name = "workers are killed while they send"

    def __init__(self) -> None:
        self.weaker = {COUNTED: Weaker("yes, all that was sent", self._counted)}

    def strike(self, stage: Stage) -> None:
        workers = [stage.worker(socket=True), stage.worker(socket=False)]
        stage.service.send_signal(signal.SIGSTOP)
        waiting = stage.seen.notes["waiting"] = []
        for worker in workers:
            waiting.append(_waits_for_room(stage, worker))
            worker.signal(signal.SIGKILL)
            worker.gone()
        stage.service.send_signal(signal.SIGCONT)
        stage.wait(lambda: stage.open_scopes() == ["bystander"])

    def _counted(self, seen: Observation) -> None:
        assert seen.notes["waiting"] == [True, True]
        assert seen.count("timers_requests_rejected_total") == 0
        without_rejections(seen)
        acquires, releases = (
            seen.count(f"timers_{name}_total", scope="sent") for name in ("acquires", "releases")
        )
        assert acquires > 100  # what there was room for
        # Each of the two was killed inside of a block or outside.
        assert 0 <= acquires - releases <= 2


def _waits_for_room(stage: Stage, worker: Remote) -> bool:
    """Have it send as much as it can; whether it gets to where it can send no more."""
    before = procfs.thread_cpu_seconds(worker.pid, worker.pid) or 0.0
    worker.tell("pairs", "sent", 1_000_000)
    asleep = [0]

    def waits() -> bool:
        used = (procfs.thread_cpu_seconds(worker.pid, worker.pid) or 0.0) - before
        found = procfs.stat(worker.pid)
        still = used > _BUSY_SECONDS and found is not None and found.state == "S"
        asleep[0] = asleep[0] + 1 if still else 0
        return asleep[0] >= _LOOKS

    return stage.wait(waits) is True


FAULTS = [HalfALine(), KilledWhileSending()]
