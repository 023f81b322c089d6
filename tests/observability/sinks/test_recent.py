from __future__ import annotations

import dataclasses
import json

from observability.sinks.bounded import MAX_LINE_BYTES
from observability.sinks.recent import RecentReaps
from support.samples import DUMP, TIMER, WORKER, all_events, expired, stack_dumped
from timers.events import Outcome, ReapFailed, WorkerInfo, WorkerKilled
from timers.stacks.take import Frame, ThreadStack


def killed(outcome: Outcome = Outcome.KILLED, worker: WorkerInfo = WORKER) -> WorkerKilled:
    return WorkerKilled(
        timestamp=9.0, worker=worker, timer=TIMER, elapsed_seconds=61.0, signal=9, outcome=outcome
    )


def test_one_record_tells_the_whole_story() -> None:
    recent = RecentReaps(run_id="run-1")
    assert recent.records() == []
    recent(expired())
    assert "outcome" not in recent.records()[0]
    recent(stack_dumped())
    recent(killed())
    (record,) = recent.records()
    assert record["lateness_seconds"] == 0.25
    assert record["frame"].endswith("load_batch")
    assert record["outcome"] == "killed"
    assert record["timestamp"].startswith("2023-11-14T22:14:20.75")  # that of the expiry


def test_several_timers_of_one_worker_are_one_reap() -> None:
    recent = RecentReaps()
    recent(expired("outer"))
    recent(expired("inner"))
    recent(stack_dumped())
    recent(killed())
    assert len(recent.records()) == 1


def test_a_failed_reap_and_its_retry_are_one_record() -> None:
    recent = RecentReaps()
    recent(expired())
    recent(
        ReapFailed(
            timestamp=2.0, worker=WORKER, timer=TIMER, elapsed_seconds=61.0, signal=9,
            outcome=Outcome.STILL_ALIVE, attempt=1, retry_in_seconds=1.0,
        )
    )  # fmt: skip
    assert recent.records()[0]["outcome"] == "still_alive"
    recent(killed(Outcome.ESCALATED))
    assert [record["outcome"] for record in recent.records()] == ["escalated"]


def test_the_latest_come_first_and_the_oldest_go() -> None:
    recent = RecentReaps(keep=3)
    for pid in range(10):
        recent(killed(worker=WorkerInfo(pid=pid)))
    assert [record["worker_pid"] for record in recent.records()] == [9, 8, 7]


def test_other_events_are_nothing_to_it() -> None:
    recent = RecentReaps()
    for event in all_events():
        recent(event)
    assert len(recent.records()) == 1


def test_a_record_is_bounded() -> None:
    frames = tuple(Frame(f"function_{n}", "/home/user/train.py", n) for n in range(5000))
    dump = dataclasses.replace(DUMP, threads=(ThreadStack(thread=4712, frames=frames),))
    recent = RecentReaps()
    recent(expired())
    recent(stack_dumped(dump))
    recent(killed())
    (record,) = recent.records()
    assert len(json.dumps(record)) <= MAX_LINE_BYTES
    assert "function_0" in record["stack"][0]["frames"][0]
    assert record["stack_truncated"]
