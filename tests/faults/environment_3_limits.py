"""Descriptors, threads and memory that the service cannot get."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil

from support.processes import VICTIMS

from .fault import Fault, Weaker
from .machine import other_user_reason, run_as_nobody
from .promises import COUNTED, EXPLAINED, GOES_ON, without_rejections

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .observation import Observation
    from .stage import Stage

__all__ = ["FAULTS"]

LIMIT = 80
CROWD = 6
EACH = 12
"""So many processes open so many connections each: together more than there is room for."""


AS_BEFORE = Weaker("yes, in full when there is room again", GOES_ON.check)


class ManyConnections(Fault):
    name = "descriptors run out: too many connections"
    transports = ("pipe", "socket")

    def __init__(self) -> None:
        self.weaker = {
            COUNTED: Weaker("yes, those turned away, too", self._counted),
            GOES_ON: Weaker("yes; at the socket when some have left", GOES_ON.check),
        }

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        stage.wrapper = ["prlimit", f"--nofile={LIMIT}:{LIMIT}"]
        with contextlib.ExitStack() as self._ends:
            yield

    def strike(self, stage: Stage) -> None:
        crowd = []
        for _ in range(CROWD):
            process = subprocess.Popen(
                [sys.executable, VICTIMS / "connections.py", stage.socket, str(EACH)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=stage.worker_environment,
            )
            self._ends.enter_context(process)
            self._ends.callback(process.kill)
            crowd.append(process)
        for process in crowd:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        stage.quiet()
        stage.seen.notes["turned away"] = CROWD * EACH - sum(_held(process) for process in crowd)

    def between(self, stage: Stage) -> None:
        self._ends.close()
        stage.quiet()

    def _counted(self, seen: Observation) -> None:
        turned_away = seen.notes["turned away"]
        assert 0 < turned_away < CROWD * EACH
        assert seen.count("timers_requests_rejected_total") == turned_away
        assert seen.count("timers_requests_rejected_total", reason="internal_error") == turned_away
        without_rejections(seen)


def _held(process: subprocess.Popen[str]) -> int:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("?\n")
    process.stdin.flush()
    return int(process.stdout.readline())


class NoDescriptors(Fault):
    name = "not one descriptor is left"
    transports = ("pipe", "socket")

    def __init__(self) -> None:
        self.weaker = {
            EXPLAINED: Weaker("the reason, no stack", self._explained),
            GOES_ON: AS_BEFORE,
        }

    def strike(self, stage: Stage) -> None:
        stage.quiet()
        used = sum(each.startswith("descriptor") for each in stage.resources())
        _limit(stage, "nofile", str(used))

    def between(self, stage: Stage) -> None:
        _limit(stage, "nofile")

    def _explained(self, seen: Observation) -> None:
        [dump] = seen.named("stack dumped", seen.first.pid)
        assert "stack" not in dump
        assert os.strerror(errno.EMFILE) in dump["stack_error"]
        [dump] = seen.named("stack dumped", seen.second.pid)
        assert dump["frame"] == seen.second.frame


class NoThreads(Fault):
    """Nothing can be started: no thread to reap with, no tool to look with."""

    transports = ("pipe", "socket")

    def __init__(self) -> None:
        self.weaker = {
            EXPLAINED: Weaker("the reason, no stack", self._explained),
            GOES_ON: AS_BEFORE,
        }

    def _explained(self, seen: Observation) -> None:
        [dump] = seen.named("stack dumped", seen.first.pid)
        assert "stack" not in dump
        assert "no thread could be started" in dump["stack_error"]
        [dump] = seen.named("stack dumped", seen.second.pid)
        assert dump["frame"] == seen.second.frame


class NoProcesses(NoThreads):
    name = "the user may not start any more threads or processes"

    def unavailable(self) -> str | None:
        return other_user_reason()

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        run_as_nobody(stage)  # root is exempt
        yield

    def strike(self, stage: Stage) -> None:
        _limit(stage, "nproc", "0")

    def between(self, stage: Stage) -> None:
        _limit(stage, "nproc")


class NoMemory(NoThreads):
    name = "the memory limit is reached"

    def strike(self, stage: Stage) -> None:
        _limit(stage, "as", str(psutil.Process(stage.pid).memory_info().vms))

    def between(self, stage: Stage) -> None:
        _limit(stage, "as")


def _limit(stage: Stage, limit: str, value: str = "") -> None:
    """Set the service's soft limit; to the hard one, when there is no value."""
    # As its own user: that suffices, where root may be without CAP_SYS_RESOURCE.
    command = [*stage.worker_wrapper, "prlimit", "--pid", str(stage.pid)]
    if not value:
        show = [*command, f"--{limit}", "--output=HARD", "--noheadings"]
        value = subprocess.run(show, check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run([*command, f"--{limit}={value}:"], check=True)


FAULTS: list[Fault] = [ManyConnections(), NoDescriptors(), NoProcesses(), NoMemory()]
