"""The end of a reap is given what was said before of its worker, and of no other."""

from __future__ import annotations

from dataclasses import replace

from observability.events import HangReported
from observability.fields import to_fields
from observability.hang.types import Confidence, HangReport, Verdict
from observability.pipeline import Pipeline
from observability.story import Stories
from support.samples import TIMER, WORKER, all_events, expired, stack_dumped
from support.sinks import RecordingSink
from timers.events import Event, Outcome, ReapFailed, WorkerExited, WorkerInfo, WorkerKilled

SENTENCE = "Rank 3 is stuck."


def reported(timestamp: float = 1_700_000_061.0) -> HangReported:
    report = HangReport(
        verdict=Verdict.ONE_SUSPECT, confidence=Confidence.HIGH, reason="", sentence=SENTENCE
    )
    return HangReported(timestamp=timestamp, run_id="run-1", report=report)


def killed(worker: WorkerInfo = WORKER) -> WorkerKilled:
    return WorkerKilled(
        timestamp=1.0, worker=worker, timer=TIMER, elapsed_seconds=60.5, signal=9,
        outcome=Outcome.KILLED, run_id="run-1",
    )  # fmt: skip


def failed() -> ReapFailed:
    return ReapFailed(
        timestamp=1.0, worker=WORKER, timer=TIMER, elapsed_seconds=60.5, signal=9,
        outcome=Outcome.STILL_ALIVE, attempt=1, retry_in_seconds=1.0,
    )  # fmt: skip


def last(stories: Stories, *events: Event) -> Event:
    return [stories.completed(event) for event in events][-1]


def test_a_kill_alone_has_the_whole_story() -> None:
    stories = Stories()
    stories.where = "timers report events.jsonl"
    event = last(stories, expired(), reported(), stack_dumped(), killed())
    assert isinstance(event, WorkerKilled)
    fields = to_fields(event, host="gpu-3")
    assert fields["frame"] == "/home/user/train.py:42 load_batch"
    assert fields["sentence"] == SENTENCE
    assert fields["verdict"] == "one_suspect"
    assert fields["report"] == "timers report events.jsonl"
    assert fields["message"].endswith(f"its deadline of 60 s. {SENTENCE}")
    assert fields["event"] == "kill worker process"
    assert "stack" not in fields


def test_an_attempt_that_failed_has_it_too_and_so_has_the_next() -> None:
    stories = Stories()
    first = last(stories, expired(), reported(), stack_dumped(), failed())
    then = stories.completed(killed())
    for event in (first, then):
        assert to_fields(event)["sentence"] == SENTENCE
        assert to_fields(event)["frame"].endswith("load_batch")


def test_without_a_hang_report_the_line_is_known() -> None:
    fields = to_fields(last(Stories(), expired(), stack_dumped(), killed()))
    assert fields["frame"].endswith("load_batch")
    assert not {"sentence", "verdict", "report"} & fields.keys()


def test_another_worker_is_given_no_line_that_is_not_its_own() -> None:
    other = WorkerInfo(pid=4712, start_time=99)
    stories = Stories()
    event = last(stories, expired(), reported(), stack_dumped(), killed(other))
    assert event == killed(other)
    recycled = replace(WORKER, start_time=100)
    assert stories.completed(killed(recycled)) == killed(recycled)
    assert "sentence" in to_fields(stories.completed(killed()))


def test_the_report_of_an_earlier_hang_is_not_the_reason() -> None:
    early = reported(expired().timestamp - 60)
    assert "sentence" not in to_fields(last(Stories(), early, expired(), killed()))
    just_before = reported(expired().timestamp - 1)
    assert "sentence" in to_fields(last(Stories(), just_before, expired(), killed()))


def test_what_has_ended_is_forgotten() -> None:
    stories = Stories()
    ended = WorkerExited(timestamp=1.0, worker=WORKER)
    assert last(stories, expired(), reported(), stack_dumped(), ended, killed()) == killed()
    assert last(stories, expired(), killed()) != killed()
    assert stories.completed(killed()) == killed()


def test_of_very_many_the_first_are_forgotten() -> None:
    stories = Stories()
    for pid in range(5000):
        stories.completed(replace(expired(), worker=WorkerInfo(pid=pid)))
    assert stories.of(WorkerInfo(pid=0)) is None
    assert stories.of(WorkerInfo(pid=4999)) is not None


def test_other_events_pass_as_they_are() -> None:
    stories = Stories()
    ends = (WorkerKilled, ReapFailed)
    for event in all_events():
        passed = stories.completed(event)
        assert passed is event or isinstance(event, ends)


def test_a_pipeline_gives_it_to_its_sinks() -> None:
    sink = RecordingSink()
    pipeline = Pipeline(sink)
    for event in (expired(), reported(), stack_dumped(), killed()):
        pipeline.emit(event)
    assert pipeline.close(30)
    assert to_fields(sink.events[-1])["sentence"] == SENTENCE
