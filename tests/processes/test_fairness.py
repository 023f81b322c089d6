"""Workers that send without a pause, and others beside them: nobody is missed, nothing is lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from support.processes import victim
from support.servers import FilePair, SocketPair
from support.waiting import eventually
from timers.events import TimerExpired, WorkerKilled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.recording import Recorder

BURST = 2000


@pytest.fixture(params=[FilePair, SocketPair])
def either(request: pytest.FixtureRequest) -> Iterator[FilePair | SocketPair]:
    pair: FilePair | SocketPair = request.param()
    yield pair
    pair.close()


def test_who_gets_stuck_right_after_a_burst_is_noticed_beside_others_at_full_speed(
    either: FilePair | SocketPair, recorder: Recorder
) -> None:
    server = either.server(observer=recorder, before_kill=lambda *_: None)
    client = "SocketTimerClient" if either.prefix else "FileTimerClient"
    with victim("bursting", client, str(either.path), "6", "8", str(BURST)) as crowd:
        assert crowd.stdout is not None
        stuck = json.loads(crowd.stdout.readline())
        assert len(stuck) == 8
        for pid in stuck:
            recorder.wait(WorkerKilled, pid)
        seen = server.statistics.requests
        eventually(lambda: server.statistics.requests > seen, "the others go on")
        assert {event.worker.pid for event in recorder.of(WorkerKilled)} == set(stuck)
    expired = recorder.of(TimerExpired)
    assert sorted(event.worker.pid for event in expired) == sorted(stuck)
    assert {event.timer.scope_id for event in expired} == {"stuck"}
    scopes = server.statistics.scopes
    counts = [(scopes[f"burst {n}"].acquires, scopes[f"burst {n}"].releases) for n in range(8)]
    assert counts == [(BURST, BURST)] * 8
    assert (scopes["stuck"].acquires, scopes["stuck"].expirations) == (8, 8)
