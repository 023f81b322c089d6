"""A multiprocessing queue whose lock was left held: a worker was killed in the middle of a put."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import observability
from observability.http.health import is_watching
from observability.sinks.metrics import Metrics
from timers import LocalTimerServer
from timers.linux import procfs
from victims.worker import run_local

from .fault import Fault, Weaker
from .observation import WorkerSeen, samples
from .promises import COUNTED, GOES_ON, NOBODY_ELSE
from .stage import BOUND_SECONDS, WORKER_FILE

if TYPE_CHECKING:
    from typing import Self

    from support.remote import Remote

    from .observation import Observation
    from .stage import Stage

__all__ = ["FAULTS"]

_LONG = "x" * 300_000
"""More than a pipe holds: its put takes until the server reads."""
_KINDS = ("[eventpoll]", "[eventfd]")


class Poisoned(Fault):
    """Its server is in this process, its workers are children of it: as a program has them.

    The first and the second that get stuck do so before the queue is poisoned, and their time is
    up afterwards. A third one is in a block, and gets stuck in the put that leaves it.
    """

    name = "a queue is poisoned: a worker is killed in the middle of a put"

    def __init__(self) -> None:
        self.weaker = {
            NOBODY_ELSE: Weaker("who has to use that queue hangs, and is reaped", self._others),
            COUNTED: Weaker("yes, and the half message", self._counted),
            GOES_ON: Weaker("for the timers that run", self._goes_on),
        }

    def play(self, stage: Stage) -> Observation:
        before = _descriptors()
        threads = threading.enumerate()
        with contextlib.ExitStack() as ends:
            queue = ends.enter_context(_Workers(stage))
            server = LocalTimerServer(queue.queue, run_id="run-1")
            pipeline = observability.attach(server, events=str(stage.events))
            ends.callback(pipeline.close, BOUND_SECONDS)
            ends.callback(server.stop)
            server.start()
            self._play(stage, server, queue)
            seen = stage.seen
            stage.wait(lambda: server.statistics.workers == 0)
            seen.health = dict.fromkeys(("/-/healthy", "/-/ready"), 200 * is_watching(server))
            seen.metrics = samples(Metrics(pipeline).exposition("")[0].decode())
        stage.wait(lambda: not _since(threads))
        seen.left_meanwhile = sorted(set(_descriptors()) - set(before)) + _since(threads)
        seen.service.code = 0
        seen.events, seen.torn = stage.event_lines()
        return seen

    def _play(self, stage: Stage, server: LocalTimerServer, workers: _Workers) -> None:
        seen = stage.seen
        bystander, first, second, third, sender = (workers.start() for _ in range(5))
        bystander.do("enter", "bystander", 3600)
        first.tell("stuck", "stuck", 3.0)
        second.tell("stuck", "stuck", 3.5)
        third.do("enter", "leaves", 5.0)
        stage.wait(lambda: server.statistics.requests == 4)
        with server._watchdog.lock:  # the server takes nothing up meanwhile
            sender.do("acquire", "sent", 3600)
            sender.tell("acquire", _LONG, 3600)
            seen.notes["in a put"] = stage.wait(lambda: _is_writing(sender.pid))
            sender.signal(signal.SIGKILL)
            sender.gone()
        third.tell("leave", "leaves")
        seen.first = workers.seen(first)
        seen.second = workers.seen(second)
        seen.notes["third"] = workers.seen(third)
        stage.wait(lambda: len(server.running_timers()) == 1)
        seen.open_meanwhile = [running.timer.scope_id for running in server.running_timers()]
        seen.bystander_lived = bystander.alive
        bystander.tell("exit")
        seen.bystander = workers.seen(bystander)

    def _others(self, seen: Observation) -> None:
        assert seen.notes["in a put"] is True
        assert seen.bystander_lived
        assert seen.bystander.code == 0
        assert seen.count("timers_expirations_total", scope="bystander") == 0
        third = seen.notes["third"]
        assert third.code == -signal.SIGKILL
        [dump] = seen.named("stack dumped", third.pid)
        frames = [frame for stack in dump["stack"] for frame in stack["frames"]]
        assert any(frame.endswith("put") and "queue_client.py" in frame for frame in frames)

    def _counted(self, seen: Observation) -> None:
        for scope, expected in (("stuck", 2), ("leaves", 1)):
            for name in ("acquires", "expirations", "reaps"):
                assert seen.count(f"timers_{name}_total", scope=scope) == expected, name
        assert seen.count("timers_requests_rejected_total") == 1
        for name in ("timers_active", "timers_overdue", "timers_workers"):
            assert seen.count(name) == 0, name

    def _goes_on(self, seen: Observation) -> None:
        assert seen.open_meanwhile == ["bystander"]
        assert seen.second.code == -signal.SIGKILL
        assert seen.health == {"/-/healthy": 200, "/-/ready": 200}


class _Workers:
    """Children of this process that share a queue."""

    def __init__(self, stage: Stage) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._stage = stage
        self._processes: dict[int, Any] = {}
        self.queue: Any = self._context.SimpleQueue()

    def start(self) -> Remote:
        """One more."""
        arguments = (self._stage._listener.port, self.queue)
        process = self._context.Process(target=run_local, args=arguments, daemon=True)
        process.start()
        assert process.pid is not None
        self._processes[process.pid] = process
        worker = self._stage._listener.accept()
        self._stage._ends.callback(worker.close)
        return worker

    def seen(self, worker: Remote) -> WorkerSeen:
        """What has become of it, waiting for its end."""
        process = self._processes[worker.pid]
        process.join(BOUND_SECONDS)
        frame = f"{WORKER_FILE}:{worker.hello['stuck_line']} stuck_here"
        return WorkerSeen(pid=worker.pid, frame=frame, code=process.exitcode)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
            process.join()
            process.close()
        self.queue.close()


def _is_writing(pid: int) -> bool:
    return (procfs.facts(pid).wait_channel or "").endswith("pipe_write")


def _descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [each for each in found if any(kind in each for kind in _KINDS)]


def _since(before: list[threading.Thread]) -> list[str]:
    now = [thread for thread in threading.enumerate() if thread not in before]
    return [thread.name for thread in now if "imer" in thread.name]


FAULTS = [Poisoned()]
