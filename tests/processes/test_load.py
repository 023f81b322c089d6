"""As fast as clients can: nothing is lost, nothing is raised, everything is counted once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.servers import LocalPair
from support.waiting import eventually
from timers.events import WorkerExited

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.recording import Recorder
    from support.servers import FilePair, Pair
    from timers.server.server import WatchdogServer


def run_pairs(pair: Pair, server: WatchdogServer, workers: int, pairs: int) -> None:
    remotes = [pair.worker() for _ in range(workers)]
    for number, remote in enumerate(remotes):
        remote.ask("pairs", f"scope {number}", pairs)
    assert [remote.answer() for remote in remotes] == [pairs] * workers
    assert [remote.do("failures") for remote in remotes] == [0] * workers
    expected = workers * pairs * 2
    eventually(lambda: server._request_count >= expected, "all have been read", timeout=60)
    assert server._request_count == expected
    counts = {
        scope: (found.acquires, found.releases, found.active, found.expirations)
        for scope, found in server.statistics.scopes.items()
    }
    assert counts == {f"scope {number}": (pairs, pairs, 0, 0) for number in range(workers)}
    assert sum(server.statistics.rejected.values()) == 0
    assert sum(sum(found.durations.counts) for found in server.statistics.scopes.values()) == (
        workers * pairs
    )
    assert server._timers == {}
    assert len(server._watchdog.state.table._heap) < 10_000  # what was released does not pile up


def test_one_client_sends_100_000_pairs(files: FilePair, recorder: Recorder) -> None:
    run_pairs(files, files.server(observer=recorder), workers=1, pairs=100_000)


def test_8_clients_send_20_000_pairs_each(files: FilePair, recorder: Recorder) -> None:
    run_pairs(files, files.server(observer=recorder), workers=8, pairs=20_000)


@pytest.fixture(params=["Queue", "SimpleQueue"])
def queues(request: pytest.FixtureRequest) -> Iterator[LocalPair]:
    pair = LocalPair(request.param, "spawn")
    yield pair
    pair.close()


def test_4_clients_of_a_queue_send_2_500_pairs_each(queues: LocalPair, recorder: Recorder) -> None:
    run_pairs(queues, queues.server(observer=recorder), workers=4, pairs=2_500)


def test_threads_of_one_client_send_at_once(files: FilePair, recorder: Recorder) -> None:
    server = files.server(observer=recorder)
    worker = files.worker()
    for number in range(6):
        worker.ask("pairs", "same", 2_000, thread=f"t{number}")
    assert [worker.answer() for _ in range(6)] == [2_000] * 6
    eventually(lambda: server._request_count >= 24_000)
    assert server._request_count == 24_000
    found = server.statistics.scopes["same"]
    assert (found.acquires, found.releases, found.active) == (12_000, 12_000, 0)


def test_what_was_sent_before_a_worker_ended_counts(files: FilePair, recorder: Recorder) -> None:
    server = files.server(observer=recorder)
    worker = files.worker()
    with files.paused():  # it has ended before the server reads a single line
        worker.do("pairs", "work", 2_000)
        worker.tell("exit")
        files.processes[worker.pid].wait()
    exited = recorder.wait(WorkerExited, worker.pid)
    assert exited.timers == ()
    assert len(recorder.of(WorkerExited)) == 1
    assert server._request_count == 4_000
    assert server.statistics.scopes["work"].releases == 2_000
