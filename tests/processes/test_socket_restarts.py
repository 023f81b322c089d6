"""The server dies, stops and is replaced; its workers keep their timers and are never mistaken."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from support.long_tests import LONG
from support.waiting import eventually
from timers import SocketTimerServer
from timers.events import TimerExpired, WorkerKilled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.recording import Recorder
    from support.remote import Remote
    from support.servers import SocketPair

ROUNDS = int(os.environ.get("TIMERS_TEST_RESTARTS", "200" if LONG else "40"))
STOPPED_SECONDS = float(os.environ.get("TIMERS_TEST_STOPPED_SECONDS", "3"))
WORKERS = 8
HANG_EVERY = 4


def scopes(server: Remote, pid: int) -> dict[str, float]:
    """Scope and expiration time of each timer that a server has of a worker."""
    return {scope: expires for owner, scope, expires in server.do("open") if owner == pid}


@pytest.mark.parametrize("ending", ["killed", "stopped"])
def test_an_open_timer_is_known_to_the_next_server_as_it_was(
    sockets: SocketPair, ending: str
) -> None:
    first = sockets.server_process()
    worker = sockets.worker()
    worker.do("enter", "outer", 3600)
    worker.do("enter", "same", 1800)
    worker.do("enter", "same", 900)
    worker.do("enter", "thread", 3600, thread="a")
    worker.do("pairs", "over", 3)
    eventually(lambda: len(first.do("open")) == 3)
    before = scopes(first, worker.pid)
    if ending == "killed":
        first.signal(signal.SIGKILL)
        assert first.gone()
    else:
        first.do("stop")
    second = sockets.server_process()
    # The worker makes no call: what it has open is told all the same.
    eventually(lambda: scopes(second, worker.pid) == before, "it is known again")
    worker.do("leave", "same")
    eventually(lambda: scopes(second, worker.pid)["same"] > before["same"], "the outer block's")
    for scope in ("same", "outer"):
        worker.do("leave", scope)
    worker.do("leave", "thread", thread="a")
    eventually(lambda: second.do("open") == [], "all was released")
    assert worker.alive


def test_a_release_while_there_is_no_server_is_not_lost(
    sockets: SocketPair, recorder: Recorder
) -> None:
    first = sockets.server_process()
    worker = sockets.worker()
    worker.do("enter", "released", 0.5)
    worker.do("enter", "open", 3600)
    eventually(lambda: len(first.do("open")) == 2)
    first.signal(signal.SIGKILL)
    assert first.gone()
    worker.do("leave", "released")
    threading_wait(0.6)  # its deadline passes
    server = sockets.server(observer=recorder)
    eventually(lambda: [scope for _, scope in server._timers] == ["open"])
    die_stuck(sockets, recorder)
    assert worker.alive
    assert recorder.of(TimerExpired, worker.pid) == []


def test_a_deadline_that_passed_without_a_server_is_kept_by_the_next(
    sockets: SocketPair, recorder: Recorder
) -> None:
    first = sockets.server_process()
    worker = sockets.worker()
    worker.tell("stuck", "hang", 1.0)
    eventually(lambda: len(first.do("open")) == 1)
    first.signal(signal.SIGKILL)
    assert first.gone()
    threading_wait(1.0)
    sockets.server(observer=recorder)
    killed = recorder.wait(WorkerKilled, worker.pid)
    assert killed.timer.scope_id == "hang"
    assert killed.timers[0][1] >= 1.0  # since its block was entered, not since it was told again


def threading_wait(seconds: float) -> None:
    """Let a deadline pass: nothing can be waited for while nobody watches it."""
    end = time.monotonic() + seconds
    eventually(lambda: time.monotonic() > end)


def die_stuck(sockets: SocketPair, recorder: Recorder) -> None:
    """A worker that is reaped: by then what was due before has been done."""
    worker = sockets.worker()
    worker.tell("stuck", "last", 0.6)
    recorder.wait(WorkerKilled, worker.pid)


def test_a_worker_that_starts_while_there_is_no_server_waits_for_one(
    sockets: SocketPair, recorder: Recorder
) -> None:
    sockets.environment = {"TIMERS_ON_ERROR": "warn"}
    worker = sockets.worker()
    worker.do("enter", "early", 3600)
    assert worker.do("failures") == 1
    server = sockets.server(observer=recorder)
    eventually(lambda: [scope for _, scope in server._timers] == ["early"])
    worker.do("leave", "early")
    eventually(lambda: server._timers == {})
    found = server.statistics.scopes["early"]
    assert (found.acquires, found.releases, found.active) == (1, 1, 0)


def test_without_any_server_the_first_block_says_so(sockets: SocketPair) -> None:
    worker = sockets.worker()
    with pytest.raises(AssertionError, match=r"NoServerError.*no timer server listens at"):
        worker.do("enter", "x", 60)


def test_a_live_server_is_not_replaced_and_a_dead_one_is(sockets: SocketPair) -> None:
    first = sockets.server_process()
    with pytest.raises(FileExistsError, match="live timer server"):
        SocketTimerServer(sockets.path)
    first.signal(signal.SIGSTOP)
    with pytest.raises(FileExistsError, match="live timer server"):
        SocketTimerServer(sockets.path)
    assert first.alive
    first.signal(signal.SIGKILL)
    assert first.gone()
    assert sockets.path.exists()
    server = SocketTimerServer(sockets.path)
    server.stop()
    assert not sockets.path.exists()


@contextlib.contextmanager
def churning(sockets: SocketPair, count: int, after: float) -> Iterator[list[Remote]]:
    """Workers that acquire and release all the time."""
    workers = [sockets.worker() for _ in range(count)]
    for worker in workers:
        worker.tell("churn", "churn", after, thread="churn")
    for worker in workers:
        eventually(lambda: worker.do("churned") > 5)  # noqa: B023  # used at once
    yield workers


@pytest.mark.timeout(STOPPED_SECONDS + 120)
def test_a_server_that_is_stopped_costs_its_workers_little_and_loses_nothing(
    sockets: SocketPair,
) -> None:
    server = sockets.server_process()
    with churning(sockets, 4, after=1.0) as workers:
        server.signal(signal.SIGSTOP)
        before = [worker.do("churned") for worker in workers]
        workers[0].do("enter", "open", 3600)
        threading_wait(STOPPED_SECONDS)
        for worker, count in zip(workers, before, strict=True):
            # More than fits into a socket for each second, and each within its own second.
            assert worker.do("churned") > count + 100 * STOPPED_SECONDS
            assert worker.do("longest") < 1.0
        server.signal(signal.SIGCONT)
        total = sum(worker.do("end_churn") for worker in workers)
        eventually(lambda: server.do("counts").get("open", [0])[0] == 1)
        eventually(
            lambda: server.do("counts")["churn"] == [total, total, 0, 0],
            "every acquire and release counts",
        )
        assert all(worker.alive for worker in workers)
        assert [pid for pid, *_ in server.do("open")] == [workers[0].pid]


class Load:
    """Eight workers that churn, each with a timer for life as well."""

    def __init__(self, sockets: SocketPair, server: Remote) -> None:
        self._sockets = sockets
        self._mother = sockets.worker()
        self.workers: list[Remote] = []
        self.expected: dict[int, float] = {}
        for _ in range(WORKERS):
            self.add()
        self.remember(server)

    def add(self) -> None:
        self._mother.do("fork")
        worker = self._sockets.accept()
        worker.do("enter", "life", 3600)
        worker.tell("churn", "churn", 60, thread="churn")
        self.workers.append(worker)

    def remember(self, server: Remote) -> None:
        """Take note of the expiration time of each timer for life."""
        for worker in self.workers:
            found = eventually(lambda: scopes(server, worker.pid).get("life"))  # noqa: B023  # called in the loop
            self.expected.setdefault(worker.pid, found)

    def is_known(self, server: Remote) -> bool:
        """Whether every living worker's timer for life is known, as it always was."""
        known = {pid: when for pid, scope, when in server.do("open") if scope == "life"}
        return all(
            known.get(worker.pid) == self.expected[worker.pid]
            for worker in self.workers
            if worker.alive
        )


@pytest.mark.timeout(900)
def test_a_server_that_is_killed_again_and_again_kills_the_stuck_and_nobody_else(
    sockets: SocketPair, capsys: pytest.CaptureFixture[str]
) -> None:
    host = sockets._program("server_host", f"{sockets.prefix}{sockets.path}")

    def start() -> Remote:
        host.do("start")
        return sockets.accept()

    server = start()
    load = Load(sockets, server)
    hung = 0
    missed_hangs: list[int] = []
    false_kills: list[int] = []
    for number in range(ROUNDS):
        stuck = None
        moment = time.monotonic() + random.uniform(0, 0.2)  # when the server is killed
        if number % HANG_EVERY == 0:
            stuck = random.choice(load.workers)
            threading_wait(random.uniform(0, 0.1))
            stuck.do("get_stuck", random.uniform(0.05, 0.4))
            hung += 1
        threading_wait(max(0.0, moment - time.monotonic()))
        server.signal(signal.SIGKILL)
        assert server.gone()
        server.close()
        server = start()
        if stuck is not None:
            if not stuck.gone(30):
                missed_hangs.append(stuck.pid)
            load.workers.remove(stuck)
            stuck.close()
        dead = [worker for worker in load.workers if not worker.alive]
        false_kills += [worker.pid for worker in dead]
        load.workers = [worker for worker in load.workers if worker.alive]
        eventually(lambda: load.is_known(server), "every open timer is known again")  # noqa: B023  # called in the loop
        while len(load.workers) < WORKERS:
            load.add()
        load.remember(server)
    with capsys.disabled():
        print(
            f"\n{ROUNDS} servers killed under {WORKERS} workers, {hung} of which hung: "
            f"{len(false_kills)} false kills, {len(missed_hangs)} missed hangs"
        )
    assert (false_kills, missed_hangs) == ([], [])
    assert hung
    assert all(worker.do("churned") > 0 for worker in load.workers)
