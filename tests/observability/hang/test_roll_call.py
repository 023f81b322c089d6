"""The roll call by itself: whose stacks it hands over, what it forgets, what a failure costs."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from observability.hang import roll_call
from observability.hang.roll_call import RollCall
from observability.samples.types import Sample
from observability.sampling import survey as sampling
from timers.events import Event, StackDumped, TimerInfo, WorkerInfo
from timers.server.statistics import Statistics
from timers.server.watchdog import RunningTimer
from timers.stacks.take import Frame, StackDump, ThreadStack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timers.server.server import WatchdogServer

FIRST, SECOND = 2**22 + 1, 2**22 + 2
"""Pids of nobody (proc(5), pid_max)."""


class Server:
    """What a roll call asks a server."""

    def __init__(self, *pids: int) -> None:
        self.pids = list(pids)
        self.expired: set[int] = set()
        self.statistics = Statistics()

    def known_workers(self) -> list[WorkerInfo]:
        return [WorkerInfo(pid=pid) for pid in self.pids]

    def running_timers(self) -> list[RunningTimer]:
        return [
            RunningTimer(
                worker=worker,
                timer=TimerInfo(scope_id="x", after_seconds=1.0, expiration_time=0.0, signal=9),
                age_seconds=1.0,
                remaining_seconds=0.0,
                expired=worker.pid in self.expired,
            )
            for worker in self.known_workers()
        ]


class Rig:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looked_at: list[int] = []
        self.events: list[Event] = []
        self.server = Server(FIRST, SECOND)
        self.roll_call = RollCall(
            self.events.append, run_id="r", host="h", sample_from=0.0, timeout=30.0
        )
        self.roll_call.attach(cast("WatchdogServer", self.server))
        monkeypatch.setattr(sampling, "take_sample", self._take_sample)
        monkeypatch.setattr(sampling, "_ROUNDS", 1)
        monkeypatch.setattr(roll_call, "_EPISODE_SECONDS", math.inf)

    def _take_sample(self, pid: int, **_options: Any) -> Sample:
        self.looked_at.append(pid)
        frame = Frame(f"look_{len(self.looked_at)}", "a.py", 1)
        threads = (ThreadStack(frames=(frame,), thread=pid, name="MainThread"),)
        return Sample(dump=StackDump(pid=pid, method="py-spy", threads=threads))

    def expire(self, pid: int) -> StackDump:
        """What the step before the kill answers for a worker that has expired."""
        self.server.expired.add(pid)
        until = time.monotonic() + 60
        (dump,) = self.roll_call.before_kill("r", {pid: ["{}"]}, until=until).values()
        return dump


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    rig = Rig(monkeypatch)
    yield rig
    rig.roll_call.close()


def told(rig: Rig) -> list[tuple[int | str, object]]:
    return [
        (event.worker.pid, dict(event.dump.extras)["expired"])
        for event in rig.events
        if isinstance(event, StackDumped)
    ]


def test_who_expires_after_the_roll_call_is_looked_at_again(rig: Rig) -> None:
    first = rig.expire(FIRST)
    assert (first.pid, dict(first.extras)["expired"]) == (FIRST, True)
    assert sorted(rig.looked_at) == [FIRST, SECOND]
    assert told(rig) == [(SECOND, False)]
    second = rig.expire(SECOND)
    assert (second.pid, dict(second.extras)["expired"]) == (SECOND, True)
    assert rig.looked_at[2:] == [SECOND]
    assert second.threads[0].frames[0].function == "look_3"
    assert rig.expire(FIRST) == first  # its kill is tried again: it is as stuck as it was
    assert len(rig.looked_at) == 3


def test_a_roll_call_that_fails_costs_nobody_his_own_stack(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rig.server, "running_timers", lambda: 1 / 0)
        first = rig.expire(FIRST)
    second = rig.expire(SECOND)
    for pid, dump in ((FIRST, first), (SECOND, second)):
        assert (dump.pid, dict(dump.extras), len(dump.threads)) == (pid, {"expired": True}, 1)
    assert "could not call the roll" in caplog.text
    assert told(rig) == []


def test_looks_at_those_that_are_gone_are_forgotten(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roll_call, "_EPISODE_SECONDS", 0.0)
    for restart in range(3):
        rig.server.pids = [FIRST + restart, SECOND + restart]
        rig.expire(FIRST + restart)
        assert {worker.pid for worker in rig.roll_call._sampling._samples} == set(rig.server.pids)
