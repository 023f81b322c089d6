"""A host's part: it joins, answers and calls; whatever its store does, its kills come in time."""

from __future__ import annotations

import math
import os
import queue
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from hangs.simulated import IN_ALL_REDUCE, OUTER, looking, view
from observability.events import HangReported
from observability.fleet import exchange as exchanges
from observability.fleet import fleet as fleets
from observability.fleet._find import Job
from observability.fleet._messages import packed
from observability.fleet._reports import report_to
from observability.fleet._store import StoreError
from observability.fleet.exchange import Exchange, RollCall
from observability.fleet.fleet import Engine, Fleet
from observability.hang import roll_call
from observability.hang.report import analyse
from observability.hang.roll_call import RollCall as HostRollCall
from observability.samples.types import Sample
from observability.sampling import survey
from support.memory_store import MemoryStore
from support.waiting import eventually
from timers.events import WorkerInfo
from timers.linux import procfs
from timers.server.statistics import Statistics
from timers.stacks.take import Frame, StackDump, ThreadStack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timers.server.server import WatchdogServer

LONG = 30.0
NOBODY = 2**22 + 1
"""A pid of nobody (proc(5), pid_max)."""


def job(port: int = 1) -> Job:
    return Job(
        host="store",
        port=port,
        run_id="r",
        ranks=(0,),
        pid=os.getpid(),
        start_time=procfs.start_time(os.getpid()),
        interpreter="/nonexistent",
        environment={},
    )


class Rig:
    """A host with one worker, in a fleet over a store in memory."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.job: Job | None = job()
        self.said: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self.refused: list[str] = []
        self.opened = 0
        self.fleet = Fleet(
            host="node0",
            seconds=LONG,
            known_workers=list,
            refuse=lambda reason, _detail: self.refused.append(reason),
            say=lambda message, severity: self.said.put((message, severity)),
            engine=Engine(find=lambda: self.job, open_store=self._open),
        )

    def _open(self, _job: Job) -> MemoryStore:
        self.opened += 1
        if self.store.is_gone:
            raise StoreError("nobody listens there")
        return self.store

    def start(self) -> None:
        self.fleet.start()
        message, severity = self.said.get(timeout=LONG)
        assert (severity, "takes part" in message) == ("info", True)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(fleets, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(fleets, "_RETRY_SECONDS", (0.02, 0.02))
    rig = Rig()
    yield rig
    rig.fleet.stop(LONG)


def other_host(store: MemoryStore) -> Exchange:
    found = Exchange(store, host="node1", ranks=(1,))
    found.join()
    return found


def test_a_roll_call_of_another_host_is_answered(rig: Rig) -> None:
    called: queue.SimpleQueue[RollCall] = queue.SimpleQueue()
    rig.fleet.answer = lambda call, _until: called.put(call)
    rig.start()
    call = other_host(rig.store).announce(LONG)
    assert called.get(timeout=LONG).host == "node1"
    assert call is not None
    assert called.empty()


def test_roll_calls_without_end_are_answered_a_few_times(rig: Rig) -> None:
    called: queue.SimpleQueue[RollCall] = queue.SimpleQueue()
    rig.fleet.answer = lambda call, _until: called.put(call)
    rig.start()
    other = other_host(rig.store)
    for _ in range(10):
        other.announce(LONG)
    eventually(lambda: len(rig.refused) == 4, "the others are refused")
    assert rig.refused == ["too_many"] * 4
    assert called.qsize() == 6


def test_a_store_that_dies_is_said_and_another_one_is_joined(rig: Rig) -> None:
    rig.start()
    rig.store.die()
    message, severity = rig.said.get(timeout=LONG)
    assert (severity, "goes on alone" in message) == ("warning", True)
    message, severity = rig.said.get(timeout=LONG)
    assert "cannot be joined" in message
    eventually(lambda: rig.opened > 3, "it tries again")
    assert rig.said.empty()  # and says it once
    assert rig.fleet.announce(time.monotonic() + LONG).exception(LONG) is not None
    rig.store = MemoryStore()
    message, severity = rig.said.get(timeout=LONG)
    assert "takes part" in message


def test_workers_that_were_restarted_with_another_store_take_this_host_along(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.start()
    rig.job = job(port=2)
    monkeypatch.setattr(fleets, "is_there", lambda _job: False)
    rig.said.get(timeout=LONG)
    assert rig.store.texts["host/1"] == ""  # it has left
    assert rig.store.texts["host/2"]


def test_a_job_is_looked_for_less_often_when_there_is_none_for_long(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    stop = rig.fleet._stop.wait

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return stop(0.0)

    monkeypatch.setattr(rig.fleet._stop, "wait", wait)
    found, rig.job = rig.job, None
    rig.fleet.start()
    eventually(lambda: len(waited) > 100, "it has looked in vain for long")
    assert waited[:29] == [0.02] * 29
    assert set(waited[29:100]) == {0.1}
    rig.job = found
    assert "takes part" in rig.said.get(timeout=LONG)[0]


def test_between_two_attempts_it_stays(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.start()
    asked = threading.Event()

    def find() -> None:
        asked.set()

    monkeypatch.setattr(rig.fleet, "_find", find)
    monkeypatch.setattr(fleets, "is_there", lambda _job: False)
    assert asked.wait(LONG)
    assert rig.fleet.is_joined
    rig.fleet.stop(LONG)
    assert rig.store.texts["host/1"] == ""


# -- with the roll call of this host -------------------------------------------------------------


class Server:
    """All that a roll call asks a server: it knows of no way to end anybody."""

    def __init__(self) -> None:
        self.statistics = Statistics()
        self.pid = NOBODY

    def known_workers(self) -> list[WorkerInfo]:
        return [WorkerInfo(pid=self.pid, rank=0)]

    def running_timers(self) -> list[Any]:
        return []


def take_sample(pid: int, **_options: Any) -> Sample:
    threads = (ThreadStack(frames=IN_ALL_REDUCE, thread=pid, name="MainThread"),)
    return Sample(dump=StackDump(pid=pid, method="py-spy", threads=threads))


class Host:
    """The roll call of one host, in the fleet of the rig."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(survey, "take_sample", take_sample)
        monkeypatch.setattr(survey, "_ROUNDS", 1)
        monkeypatch.setattr(roll_call, "_EPISODE_SECONDS", -math.inf)
        self.events: list[Any] = []
        self.server = Server()
        self.roll_call = HostRollCall(
            self.events.append, run_id="r", host="node0", sample_from=0.0, timeout=LONG
        )
        self.roll_call.attach(cast("WatchdogServer", self.server))
        self.roll_call.join(rig.fleet)

    def expire(self, seconds: float, pid: int = NOBODY) -> float:
        """Return after how many seconds the kill may come."""
        began = time.monotonic()
        dumps = self.roll_call.before_kill("r", {pid: ["{}"]}, until=began + seconds)
        assert dumps[pid].threads
        return time.monotonic() - began

    @property
    def reports(self) -> list[HangReported]:
        return [event for event in self.events if isinstance(event, HangReported)]


@pytest.fixture
def host(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    host = Host(rig, monkeypatch)
    yield host
    host.roll_call.close()


def stuck(rank: int) -> Any:
    frames = (Frame("fetch_shard", "/job/data.py", 88), *OUTER)
    looks = [looking(4711, frames, at=at, cpu=2.0) for at in (0.0, 50.0)]
    return view(rank, *looks, host=f"node{rank}", pid=4711, expired=False)


def test_the_report_is_about_all_hosts_and_counted_by_that_of_the_suspect(
    rig: Rig, host: Host
) -> None:
    rig.start()
    other = answering(rig)
    host.expire(LONG)
    other.join(LONG)
    [event] = host.reports
    assert [suspect.host for suspect in event.report.suspects] == ["node1"]
    assert not event.counts
    assert sum(host.server.statistics.hang_reports.values()) == 0


def test_nobody_is_killed_before_the_report_is_known_everywhere(
    rig: Rig, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is killed may serve the store from which the others read."""
    monkeypatch.setattr(exchanges, "_SEEN_SECONDS", LONG)
    rig.start()
    other = other_host(rig.store)
    answer = answering(rig, other)
    expiring = threading.Thread(target=host.expire, args=(LONG,))
    expiring.start()
    eventually(lambda: "seen/1" in rig.store.texts, "this host has made it known")
    assert host.reports
    answer.join(LONG)
    assert expiring.is_alive()
    other.confirm(1, time.monotonic() + LONG)
    expiring.join(LONG)
    assert not expiring.is_alive()
    eventually(
        lambda: not any(key.startswith("part/") for key in rig.store.texts),
        "what was collected is removed",
    )


def answering(rig: Rig, silent: Exchange | None = None) -> threading.Thread:
    """Another host, whose rank is stuck; it answers one roll call.

    :param silent: one that does not say when it has made the report known.
    """
    other = silent or other_host(rig.store)
    called = other.wait_for_call(LONG)

    def answer() -> None:
        assert called.result(LONG)
        call = other.take_call()
        assert call is not None
        until = time.monotonic() + LONG
        shared = other.share(call, [stuck(1)], 2, collect_until=0.0, until=until)
        if shared is not None and shared.number is not None and silent is None:
            other.confirm(shared.number, until)

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def test_by_kill_culprit_who_waits_is_spared_until_its_launcher_ends_it(
    rig: Rig, host: Host
) -> None:
    rig.start()
    host.roll_call._end = lambda pid: pytest.fail(f"{pid} is ended")
    with subprocess.Popen(["sleep", "1000"]) as worker:
        host.server.pid = worker.pid
        other = answering(rig)
        expiring = threading.Thread(target=host.expire, args=(LONG, worker.pid))
        expiring.start()
        eventually(lambda: host.reports, "the report")
        other.join(LONG)
        assert expiring.is_alive()
        worker.kill()
        expiring.join(LONG)
        assert not expiring.is_alive()


@pytest.mark.slow
def test_by_kill_culprit_nobody_is_spared_beyond_the_bound(rig: Rig, host: Host) -> None:
    rig.start()
    host.roll_call._end = lambda pid: pytest.fail(f"{pid} is ended")
    with subprocess.Popen(["sleep", "1000"]) as worker:
        host.server.pid = worker.pid
        other = answering(rig)
        assert 2.0 <= host.expire(2.0, worker.pid) < LONG
        other.join(LONG)
        worker.kill()
    assert [suspect.rank for suspect in host.reports[0].report.suspects] == [1]


def test_a_report_that_accuses_somebody_ends_nobody(rig: Rig, host: Host) -> None:
    """Of a host whose timers still run: there is no step of a kill that it could be part of."""
    rig.start()
    host.roll_call._end = lambda pid: pytest.fail(f"{pid} is ended")  # by --kill culprit neither
    liar = other_host(rig.store)
    forged = analyse([view(0, *stuck(0).samples, host="node0", pid=NOBODY), stuck(1)])
    report = report_to(forged) | {"sentence": "rank 0 is to be ended"}
    rig.store.set("report/1", packed({"counts": "x", "report": report}))
    assert liar.announce(LONG) is not None
    [event] = eventually(lambda: host.reports, "the report")
    assert event.report.sentence == "rank 0 is to be ended"
    assert host.server.statistics.hang_reports == Statistics().hang_reports


def test_a_store_that_never_answers_holds_up_no_kill(rig: Rig, host: Host) -> None:
    rig.start()
    blocked = threading.Event()

    def block(*_: object) -> None:
        blocked.wait(LONG)
        raise StoreError("too late")

    rig.store.set_first = block  # type: ignore[assignment, method-assign]  # as a link that is down
    try:
        assert host.expire(1.0) < LONG / 2
    finally:
        blocked.set()
    [event] = host.reports
    assert event.counts
    assert event.report.unheard == ("all other hosts (no store)",)


def test_a_caller_without_a_report_leaves_a_host_with_its_own(rig: Rig, host: Host) -> None:
    rig.start()
    other_host(rig.store).announce(0.5)
    [event] = eventually(lambda: host.reports, "the report")
    assert event.report.unheard == ("node1, which called, handed no report out",)
    assert event.report.workers == 1
