"""What telling costs: an event through the pipeline, and a scrape, with more and more scopes.

The first for whoever emits (the watchdog's thread) and in all (with the thread of a sink that does
nothing); the second as CPU time of the process, which the watchdog has to share a lock with.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from observability.pipeline import Pipeline
from observability.sinks.metrics import Metrics
from timers.events import TimerAcquired, TimerInfo, WorkerInfo
from timers.server.statistics import Statistics

from .apart import in_child
from .table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timers.events import Event

    from .effort import Effort

__all__ = ["rows"]

_SCOPES = (10, 100, 1_000, 10_000)
_EVENTS = 1_000


def rows(effort: Effort) -> Iterator[Row]:
    """Measure."""
    rounds = effort.of(30, 3)
    yield from in_child(_pipeline_rows, rounds)
    for scopes in effort.of(_SCOPES, _SCOPES[:3]):
        yield from in_child(_scrape_rows, scopes, effort.of(max(5, 3_000 // scopes), 2))


class _Sink:
    wants_requests = True

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, event: Event) -> None:
        """Take it, and do nothing with it."""


def _pipeline_rows(rounds: int) -> list[Row]:
    found = []
    base = None
    for sinks in (0, 1, 3):
        pipeline = Pipeline(*(_Sink(f"sink {number}") for number in range(sinks)))
        emitting, in_all = [], []
        for _ in range(rounds):
            mine, all_ = time.thread_time(), time.process_time()
            for _ in range(_EVENTS):
                pipeline.emit(_EVENT)
            emitting.append((time.thread_time() - mine) / _EVENTS)
            assert pipeline.flush(60)
            in_all.append((time.process_time() - all_) / _EVENTS)
        assert pipeline.close()
        assert not any(counts.dropped for counts in pipeline.sink_counts.values())
        to = f"one event to {sinks} sinks"
        base = base or f"{to}: CPU of who emits"
        found.append(Row(f"{to}: CPU of who emits", emitting, base=base))
        found.append(Row(f"{to}: CPU in all", in_all, base=base))
    return found


_EVENT = TimerAcquired(
    timestamp=0.0,
    run_id="benchmark",
    worker=WorkerInfo(pid=1),
    timer=TimerInfo(scope_id="all_reduce", expiration_time=0.0, after_seconds=60.0, signal=9),
)


def _scrape_rows(scopes: int, rounds: int) -> list[Row]:
    found = []
    for most, what in ((200, "as it comes: 200 by name"), (scopes, "all by name")):
        if scopes <= 200 and most == 200:
            continue
        statistics = Statistics(max_scopes=most)
        for number in range(scopes):
            scope = statistics.scope(f"scope {number}")
            scope.acquires += 1
            scope.releases += 1
            scope.took(0.01 * number, first=False, traceparent=None)
        pipeline = Pipeline()
        pipeline.watch(statistics)
        metrics = Metrics(pipeline)
        samples = []
        size = 0
        for _ in range(rounds):
            started = time.process_time()
            body, _ = metrics.exposition()
            samples.append(time.process_time() - started)
            size = len(body)
        of = f"{scopes:,} scopes, {what}"
        found.append(Row(f"one scrape, {of}", samples, "ms", None))
        found.append(Row(f"... its answer, {of}", [float(size)], "KiB"))
    return found
