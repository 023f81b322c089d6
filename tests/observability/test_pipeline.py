"""The pipeline: sinks isolated from each other and from the server, losses counted."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from observability.pipeline import Pipeline
from support.samples import TIMER, WORKER, expired
from support.sinks import BlockingSink, RaisingSink, RecordingSink
from support.waiting import eventually
from timers.events import TimerAcquired
from timers.server.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def blocked() -> Iterator[BlockingSink]:
    sink = BlockingSink()
    yield sink
    sink.release.set()


def test_bad_sinks_do_not_keep_a_good_one_from_its_events(blocked: BlockingSink) -> None:
    good, raising = RecordingSink(), RaisingSink(OSError("disk"))
    pipeline = Pipeline(blocked, raising, good)
    for _ in range(5):
        pipeline.emit(expired())
        assert not pipeline.flush(0.01)
    eventually(lambda: len(good.events) == 5 and raising.calls == 5)
    eventually(lambda: pipeline.sink_counts["raising"].errors == 5)
    assert pipeline.sink_counts == {"blocking": (0, 0), "raising": (0, 5), "recording": (0, 0)}
    assert not pipeline.close(0.05)
    assert pipeline.sink_counts["blocking"].dropped == 4
    assert (good.closed, blocked.closed) == (1, 0)
    blocked.release.set()
    assert pipeline.close(30)
    assert (good.closed, blocked.closed) == (1, 1)
    assert len(blocked.events) == 1


def test_requests_go_only_to_sinks_that_want_them() -> None:
    quiet, spans = RecordingSink("quiet"), RecordingSink("spans", wants_requests=True)
    pipeline = Pipeline(quiet)
    assert not pipeline.wants_requests
    pipeline.add(spans)
    assert pipeline.wants_requests
    pipeline.emit(TimerAcquired(timestamp=1.0, worker=WORKER, timer=TIMER))
    pipeline.emit(expired())
    assert pipeline.flush(30)
    assert [event.name for event in spans.events] == ["timer acquired", "timer expired"]
    assert [event.name for event in quiet.events] == ["timer expired"]
    assert pipeline.close(30)


def test_losses_are_exact_with_eight_threads(blocked: BlockingSink) -> None:
    good = RecordingSink()
    pipeline = Pipeline(blocked, good, capacity=100)
    start = threading.Barrier(8)

    def emit() -> None:
        start.wait()
        for _ in range(1_000):
            pipeline.emit(expired())

    threads = [threading.Thread(target=emit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blocked.entered.wait(30)
    # One is being delivered, a hundred wait; the thread may have been slow to take its first.
    assert pipeline.sink_counts["blocking"].dropped in (8_000 - 101, 8_000 - 100)
    assert not pipeline.close(0.05)
    blocked.release.set()
    assert pipeline.close(30)
    for sink in (good, blocked):
        assert sink.events
        assert len(sink.events) + pipeline.sink_counts[sink.name].dropped == 8_000


def test_what_a_sink_loses_itself_is_counted_with_it() -> None:
    class Lossy(RecordingSink):
        dropped = 7

    pipeline = Pipeline(Lossy("lossy"))
    assert pipeline.sink_counts["lossy"].dropped == 7
    assert pipeline.close(30)
    pipeline.emit(expired())
    assert pipeline.sink_counts["lossy"].dropped == 8


def test_two_sinks_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="there is a sink named 'recording' already"):
        Pipeline(RecordingSink(), RecordingSink())


def test_reopen_reaches_every_sink_that_can() -> None:
    class Broken(RecordingSink):
        def reopen(self) -> None:
            super().reopen()
            raise OSError

    broken, good = Broken("broken"), RecordingSink()
    pipeline = Pipeline(broken, RaisingSink(OSError()), good)
    pipeline.reopen()
    assert (broken.reopened, good.reopened) == (1, 1)
    assert pipeline.close(30)


def test_a_sink_that_cannot_be_closed_is_said(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(RecordingSink):
        def close(self) -> None:
            super().close()
            raise OSError("no space")

    broken = Broken("broken")
    assert Pipeline(broken, RecordingSink()).close(30)
    assert broken.closed == 1
    assert "the sink 'broken' could not be closed" in caplog.text


@pytest.mark.slow
def test_a_sink_whose_close_does_not_return_is_left(blocked: BlockingSink) -> None:
    class Stuck(RecordingSink):
        def close(self) -> None:
            super().close()
            blocked.release.wait()

    stuck, good = Stuck("stuck"), RecordingSink()
    pipeline = Pipeline(stuck, good)
    pipeline.emit(expired())
    pipeline.close(0.2)
    eventually(lambda: (stuck.closed, good.closed) == (1, 1))
    assert len(stuck.events) == len(good.events) == 1


def test_closing_without_new_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the end of the interpreter, when no thread can be started any more."""
    sink = RecordingSink()
    pipeline = Pipeline(sink)
    pipeline.emit(expired())
    assert pipeline.flush(30)

    def fail(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert pipeline.close(30)
    assert sink.closed == 1


def test_servers_are_watched_once_each() -> None:
    first, second = Statistics(), Statistics()
    pipeline = Pipeline()
    for statistics in (first, second, first):
        pipeline.watch(statistics)
    assert pipeline.statistics == (first, second)
    assert pipeline.flush(0)
    assert pipeline.close(0)
