"""The base classes, with a server and a client of somebody's own written against torch's module."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import Any

import pytest

import timers
from support.waiting import eventually
from timers import RequestQueue, TimerClient, TimerRequest, TimerServer, expires
from timers.events import (
    Outcome,
    ReapFailed,
    TimerExpired,
    WatchdogStarted,
    WatchdogStopped,
    WorkerKilled,
)
from timers.server.observers.logging_observer import log_events
from timers.server.statistics import Statistics
from timers.testing import RecordingObserver


class PlainQueue(RequestQueue):
    """Requests in the same process."""

    def __init__(self) -> None:
        self.queue: queue.Queue[TimerRequest] = queue.Queue()

    def size(self) -> int:
        return self.queue.qsize()

    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        found: list[TimerRequest] = []
        deadline = time.monotonic() + timeout
        while len(found) < size:
            try:
                found.append(self.queue.get(timeout=max(0.001, deadline - time.monotonic())))
            except queue.Empty:
                break
        return found


class PlainClient(TimerClient):
    def __init__(self, requests: PlainQueue, worker_id: str) -> None:
        self._requests = requests
        self._worker_id = worker_id

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        self._requests.queue.put(TimerRequest(self._worker_id, scope_id, expiration_time))

    def release(self, scope_id: str) -> None:
        self._requests.queue.put(TimerRequest(self._worker_id, scope_id, -1))


class PlainServer(TimerServer):
    """As torch's documentation would have one write it; workers are strings."""

    def __init__(self, requests: RequestQueue | None, max_interval: float = 0.01) -> None:
        super().__init__(requests, max_interval)
        self.timers: dict[tuple[str, str], TimerRequest] = {}
        self.answers: dict[str, list[bool | Exception]] = {}
        self.reaped: list[str] = []
        self.cleared: list[set[str]] = []

    def register_timers(self, timer_requests: list[TimerRequest]) -> None:
        for request in timer_requests:
            key = (request.worker_id, request.scope_id)
            if request.expiration_time < 0:
                self.timers.pop(key, None)
            else:
                self.timers[key] = request

    def clear_timers(self, worker_ids: set[str]) -> None:
        self.cleared.append(worker_ids)
        for key in [key for key in self.timers if key[0] in worker_ids]:
            del self.timers[key]

    def get_expired_timers(self, deadline: float) -> dict[str, list[TimerRequest]]:
        found: dict[str, list[TimerRequest]] = {}
        for (worker_id, _), request in self.timers.items():
            if request.expiration_time <= deadline:
                found.setdefault(worker_id, []).append(request)
        return found

    def _reap_worker(self, worker_id: str) -> bool:
        self.reaped.append(worker_id)
        answer = self.answers[worker_id].pop(0) if self.answers.get(worker_id) else True
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def requests() -> PlainQueue:
    return PlainQueue()


@pytest.fixture
def server(requests: PlainQueue) -> PlainServer:
    server = PlainServer(requests)
    server.observer = RecordingObserver()
    return server


def observed(server: TimerServer) -> RecordingObserver:
    assert isinstance(server.observer, RecordingObserver)
    return server.observer


# -- requests -------------------------------------------------------------------------------------


def test_requests_are_compared_by_value() -> None:
    request = TimerRequest("w", "x", 1.0)
    assert request == TimerRequest("w", "x", 1.0)
    for other in (
        TimerRequest("v", "x", 1.0),
        TimerRequest("w", "y", 1.0),
        TimerRequest("w", "x", 2.0),
        "w",
        None,
    ):
        assert request != other
    assert repr(request) == "TimerRequest(worker_id='w', scope_id='x', expiration_time=1.0)"
    with pytest.raises(TypeError):
        hash(request)


def test_requests_of_a_pipe_are_compared_with_their_signal() -> None:
    request = timers.FileTimerRequest(7, "x", 1.0, 9)
    assert request == timers.FileTimerRequest(7, "x", 1.0, 9)
    assert request != timers.FileTimerRequest(7, "x", 1.0, 15)
    assert request != TimerRequest(7, "x", 1.0)
    assert (request.worker_pid, request.worker_id, request.version) == (7, 7, 1)


@pytest.mark.parametrize("base", [TimerClient, RequestQueue, TimerServer])
def test_the_base_classes_are_abstract(base: Any) -> None:
    with pytest.raises(TypeError, match="abstract"):
        base()


# -- a server of one's own ------------------------------------------------------------------------


def test_a_round_takes_up_requests_and_reaps(server: PlainServer, requests: PlainQueue) -> None:
    client = PlainClient(requests, "w")
    with expires(60, "fine", client):
        pass
    client.acquire("stuck", time.time() - 1)
    server._run_watchdog()
    assert server.reaped == ["w"]
    assert server.timers == {}
    assert server.cleared == [{"w"}]
    assert observed(server).names == ["timer expired", "kill worker process"]
    (expired,) = observed(server).of(TimerExpired)
    assert (expired.worker.pid, expired.timer.scope_id) == ("w", "stuck")
    assert expired.lateness_seconds >= 1
    assert observed(server).flushes == [1]  # before the reap
    (killed,) = observed(server).of(WorkerKilled)
    assert killed.outcome is Outcome.KILLED
    statistics = server.statistics
    assert statistics.requests == 3
    assert (statistics.scopes["fine"].acquires, statistics.scopes["fine"].releases) == (1, 1)
    assert statistics.scopes["stuck"].expirations == 1
    assert statistics.scopes["stuck"].reaps[Outcome.KILLED] == 1
    assert sum(statistics.lateness.counts) == 1
    assert statistics.last_sweep > 0


def test_a_worker_that_is_still_there_is_reaped_again(
    server: PlainServer, requests: PlainQueue
) -> None:
    server.answers["w"] = [False, False]
    client = PlainClient(requests, "w")
    client.acquire("x", time.time() - 1)
    server._run_watchdog()
    assert list(server.timers) == [("w", "x")]
    assert server.cleared == [set()]
    client.acquire("y", time.time() - 1)
    server._run_watchdog()
    failed = observed(server).of(ReapFailed)
    assert [(event.outcome, event.attempt) for event in failed] == [
        (Outcome.STILL_ALIVE, 1),
        (Outcome.STILL_ALIVE, 2),
    ]
    server._run_watchdog()
    assert server.reaped == ["w", "w", "w"]
    assert server.timers == {}
    reaps = server.statistics.scopes["x"].reaps
    assert (reaps[Outcome.STILL_ALIVE], reaps[Outcome.KILLED]) == (2, 1)
    expired = [event.timer.scope_id for event in observed(server).of(TimerExpired)]
    assert expired == ["x", "y"]  # each is told once, however often its worker is tried
    assert [scope.expirations for scope in server.statistics.scopes.values()] == [1, 1]


def test_a_worker_that_recovers_from_a_failed_reap_starts_afresh(
    server: PlainServer, requests: PlainQueue
) -> None:
    server.answers["w"] = [False, False]
    client = PlainClient(requests, "w")
    client.acquire("x", time.time() - 1)
    server._run_watchdog()
    client.release("x")
    server._run_watchdog()
    client.acquire("x", time.time() - 1)
    server._run_watchdog()
    assert [event.attempt for event in observed(server).of(ReapFailed)] == [1, 1]
    assert len(observed(server).of(TimerExpired)) == 2


def test_a_reap_that_raises_counts_as_done_and_harms_no_other(
    server: PlainServer, requests: PlainQueue, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers["w"] = [KeyError("mine")]
    for worker_id in "wv":
        PlainClient(requests, worker_id).acquire("x", time.time() - 1)
    with caplog.at_level(logging.ERROR):
        server._run_watchdog()
    assert sorted(server.reaped) == ["v", "w"]
    assert server.timers == {}
    assert "_reap_worker raised for worker w" in caplog.text
    outcomes = {event.worker.pid: event.outcome for event in observed(server).of(WorkerKilled)}
    assert outcomes == {"w": Outcome.ERROR, "v": Outcome.KILLED}


def test_a_started_server_serves_until_it_is_stopped(
    server: PlainServer, requests: PlainQueue
) -> None:
    server.start()
    thread = server._watchdog_thread
    assert thread is not None
    assert thread.daemon
    server.start()  # runs already
    assert server._watchdog_thread is thread
    client = PlainClient(requests, "w")
    client.acquire("x", time.time() - 1)
    eventually(lambda: server.reaped == ["w"])
    server.stop()
    eventually(lambda: not thread.is_alive())
    server.stop()
    names = [type(event) for event in observed(server).events]
    assert names[0] is WatchdogStarted
    assert names[-1] is WatchdogStopped


def test_a_round_that_fails_does_not_end_the_server(
    server: PlainServer, requests: PlainQueue, caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Event()
    register = server.register_timers

    def fails_once(timer_requests: list[TimerRequest]) -> None:
        if not failed.is_set():
            failed.set()
            raise KeyError("mine")
        register(timer_requests)

    server.register_timers = fails_once  # type: ignore[method-assign]  # once
    with caplog.at_level(logging.ERROR):
        server.start()
        assert failed.wait(30)
        PlainClient(requests, "w").acquire("x", time.time() - 1)
        eventually(lambda: server.reaped == ["w"])
        server.stop()
    assert "error in the watchdog of PlainServer" in caplog.text


def test_an_observer_that_raises_prevents_no_reap(
    server: PlainServer, requests: PlainQueue
) -> None:
    told: list[object] = []

    class Broken(RecordingObserver):
        def emit(self, event: object) -> None:
            told.append(event)
            raise KeyError("mine")

        def flush(self, timeout: float) -> bool:
            raise KeyError(timeout)

    server.observer = Broken()
    PlainClient(requests, "w").acquire("x", time.time() - 1)
    server._run_watchdog()
    assert len(told) == 2
    assert server.reaped == ["w"]


def test_without_a_queue_it_says_so() -> None:
    with pytest.raises(TypeError, match="PlainServer has no request queue"):
        PlainServer(None)._run_watchdog()


def test_the_observer_is_the_one_that_was_set(server: PlainServer, requests: PlainQueue) -> None:
    class Empty(RecordingObserver):
        """One that is false, as long as it has heard nothing."""

        def __len__(self) -> int:
            return len(self.events)

    empty = Empty()
    server.observer = empty
    assert server.observer is empty
    PlainClient(requests, "w").acquire("x", time.time() - 1)
    server._run_watchdog()
    assert len(empty) == 2
    assert isinstance(server.statistics, Statistics)
    assert server.statistics is server.statistics


def test_the_scopes_of_requests() -> None:
    server = PlainServer(PlainQueue())
    found = server._get_scopes([TimerRequest("w", "x", 1.0), TimerRequest("w", "y", 1.0)])
    assert found == ["x", "y"]


def test_a_server_without_observer_logs_its_events(
    requests: PlainQueue, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_events()
    monkeypatch.setattr("timers.api.log_events", lambda: log)
    server = PlainServer(requests)
    PlainClient(requests, "w").acquire("x", time.time() - 1)

    def messages() -> list[str]:
        return [found.getMessage() for found in caplog.records if found.name == "timers.events"]

    with caplog.at_level(logging.INFO, "timers.events"):
        server._run_watchdog()
        eventually(lambda: len(messages()) == 2)
    assert server.observer is None
    assert messages()[0].startswith("timer expired: ")
    assert "scope='x'" in messages()[0]
    assert messages()[1].startswith("kill worker process: ")
    log.close(30)
