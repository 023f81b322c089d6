"""The pipeline as the ``log_event`` of torch's ``FileTimerServer``, with requests like torch's."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from observability.fields import to_fields
from observability.pipeline import Pipeline
from support.processes import victim
from support.sinks import BlockingSink, RecordingSink
from timers.events import (
    Outcome,
    TimerExpired,
    WatchdogStarted,
    WatchdogStopped,
    WorkerInfo,
    WorkerKilled,
)

if TYPE_CHECKING:
    import pytest


@dataclass
class Request:
    worker_pid: int
    scope_id: str = "step"
    expiration_time: float = 1.0
    signal: int = 9


def test_the_four_events_of_torch() -> None:
    sink = RecordingSink()
    pipeline = Pipeline(sink, run_id="job-1")
    ranks = {"RANK": "5", "LOCAL_RANK": "1", "TORCHELASTIC_RESTART_COUNT": "x"}
    with victim("stuck", "sleep", env=ranks) as process:
        request = Request(process.pid, expiration_time=time.time() - 3)
        pipeline.log_event("watchdog started", None)
        pipeline.log_event("timer expired", request)
        # Gone before its kill is reported, as with torch: its ranks are remembered.
        process.kill()
        process.wait()
        pipeline.log_event("kill worker process", request)
        pipeline.log_event("watchdog stopped")
    started, expired, killed, stopped = sink.events
    assert isinstance(started, WatchdogStarted)
    assert isinstance(stopped, WatchdogStopped)
    assert isinstance(expired, TimerExpired)
    assert isinstance(killed, WorkerKilled)
    assert {event.run_id for event in sink.events} == {"job-1"}
    assert expired.worker == killed.worker == WorkerInfo(pid=process.pid, rank=5, local_rank=1)
    assert expired.timer.scope_id == "step"
    assert expired.lateness_seconds >= 3
    assert math.isnan(expired.elapsed_seconds)
    assert killed.outcome is Outcome.KILLED
    assert killed.signal == 9
    assert "after_seconds" not in to_fields(killed)
    (statistics,) = pipeline.statistics
    counts = statistics.scopes["step"]
    assert counts.expirations == 1
    assert counts.reaps[Outcome.KILLED] == 1
    assert sum(statistics.lateness.counts) == 1
    assert sum(counts.durations.counts) == 0
    assert pipeline.close(30)


def test_what_is_not_torchs_is_ignored_and_nothing_is_raised() -> None:
    sink = RecordingSink()
    pipeline = Pipeline(sink)
    pipeline.log_event("timer expired", Request(1))
    pipeline.log_event("timer expired", None)
    pipeline.log_event("timer expired", object())
    pipeline.log_event("something else", Request(1))
    assert [event.name for event in sink.events] == ["timer expired"]
    assert pipeline.close(30)


def test_events_are_out_when_the_callback_returns_but_never_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("observability.pipeline.FLUSH_SECONDS", 0.05)
    sink, stuck = RecordingSink(), BlockingSink()
    pipeline = Pipeline(stuck, sink)
    pipeline.log_event("timer expired", Request(1))
    pipeline.log_event("kill worker process", Request(1))
    assert pipeline.flush(0) is False
    stuck.release.set()
    assert pipeline.close(30)
    assert [event.name for event in sink.events] == ["timer expired", "kill worker process"]
