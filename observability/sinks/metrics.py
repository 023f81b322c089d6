"""The servers' counts in the formats of Prometheus and OpenMetrics.

A collector that reads the plain integers of :class:`timers.server.statistics.Statistics` when it is
scraped: nothing is counted twice, queued or dropped, and a request costs no metrics library.

It has a registry of its own, so that a program that embeds a server keeps its registry, and so
that two servers in one process do not collide.

Decision: several servers are summed, except ``timers_last_sweep_timestamp_seconds``, which is the
oldest of them: one watchdog that has stalled must not hide behind another.
"""

from __future__ import annotations

import os
import platform
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from observability.hang.types import HangReport, Suspect, Verdict
from observability.untrusted import printable, this_host
from timers import __version__

from .trace_ids import span_of_scope, spans_wanted, trace_ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from observability.pipeline import Pipeline, SinkCounts
    from timers.server.statistics import Histogram, ScopeStatistics, Statistics

__all__ = ["LABEL_CHARACTERS", "Metrics"]

LABEL_CHARACTERS = 120
"""Longest scope in a label; longer ones that begin alike share their series."""


class Metrics(Collector):
    """What is answered to a scrape. Safe from any thread.

    :param pipeline: read anew for each scrape.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def exposition(self, accept: str | None = None) -> tuple[bytes, str]:
        """All metrics, and their content type.

        :param accept: the ``Accept`` header of the scrape: OpenMetrics, which has exemplars, is
            given to who asks for it, the Prometheus text format to everybody else.
        """
        try:
            encode, content_type = choose_encoder(accept or "")
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        return encode(self.registry), content_type

    def collect(self) -> Iterator[Metric]:
        """What this package counts, for the registry."""
        statistics = self._pipeline.statistics
        yield from _scope_metrics(_by_label(statistics), _last_reaps(self._pipeline))
        yield from _server_metrics(statistics)
        yield from _sink_metrics(self._pipeline.sink_counts)
        yield _last_hang(self._pipeline)
        yield InfoMetricFamily(
            "timers_run",
            "Which run this service is for, and on which host.",
            value={"run_id": printable(self._pipeline.run_id), "host": this_host()},
        )
        yield InfoMetricFamily(
            "timers_build",
            "Version of expiration-timers and of Python.",
            value={"version": __version__, "python_version": platform.python_version()},
        )


def _by_label(statistics: Sequence[Statistics]) -> dict[str, list[ScopeStatistics]]:
    """Group the scopes of all servers by label value; what becomes one label is summed."""
    found: dict[str, list[ScopeStatistics]] = {}
    for each in statistics:
        for scope_id, counts in list(each.scopes.items()):
            found.setdefault(_label(scope_id), []).append(counts)
    return found


def _label(scope_id: str) -> str:
    return printable(scope_id[:LABEL_CHARACTERS])


def _last_reaps(pipeline: Pipeline) -> dict[tuple[str, str], Exemplar]:
    """Return the span of the last reap of each scope and outcome, by the labels of the counter."""
    found: dict[tuple[str, str], Exemplar] = {}
    derived = spans_wanted(os.environ)
    for (scope_id, outcome), event in list(pipeline.stories.reaps.items()):
        ids = span_of_scope(event, pipeline.run_id, this_host(), derived=derived)
        if ids is not None:
            labels = {"trace_id": ids.trace_id} | ({"span_id": ids.span_id} if ids.span_id else {})
            found[_label(scope_id), outcome.value] = Exemplar(labels, 1.0, event.timestamp)
    return found


def _scope_metrics(
    scopes: Mapping[str, Sequence[ScopeStatistics]], last_reaps: Mapping[tuple[str, str], Exemplar]
) -> Iterator[Metric]:
    acquires = CounterMetricFamily(
        "timers_acquires", "Timers that were acquired.", labels=["scope"]
    )
    releases = CounterMetricFamily(
        "timers_releases", "Timers that were released in time.", labels=["scope"]
    )
    expirations = CounterMetricFamily(
        "timers_expirations", "Timers whose deadline passed.", labels=["scope"]
    )
    reaps = CounterMetricFamily(
        "timers_reaps",
        "Attempts to end a stuck worker, by the scope that expired and how it went.",
        labels=["scope", "outcome"],
    )
    active = GaugeMetricFamily("timers_active", "Timers that run now.", labels=["scope"])
    overdue = GaugeMetricFamily(
        "timers_overdue",
        "Timers past their deadline whose worker has neither left the scope nor ended.",
        labels=["scope"],
    )
    durations = HistogramMetricFamily(
        "timers_scope_duration_seconds",
        "Time from acquire to release.",
        labels=["scope"],
        unit="seconds",
    )
    ratios = HistogramMetricFamily(
        "timers_deadline_used_ratio",
        "Part of the allowed time that a scope took; near 1 is a near miss.",
        labels=["scope"],
        unit="ratio",
    )
    for scope, counts in scopes.items():
        acquires.add_metric([scope], sum(each.acquires for each in counts))
        releases.add_metric([scope], sum(each.releases for each in counts))
        expirations.add_metric([scope], sum(each.expirations for each in counts))
        active.add_metric([scope], sum(each.active for each in counts))
        overdue.add_metric([scope], sum(each.overdue for each in counts))
        for outcome in counts[0].reaps:
            reaps.add_metric(
                [scope, outcome.value],
                sum(each.reaps[outcome] for each in counts),
                exemplar=last_reaps.get((scope, outcome.value)),
            )
        _add(durations, [scope], [each.durations for each in counts])
        _add(ratios, [scope], [each.ratios for each in counts])
    yield from (acquires, releases, expirations, reaps, active, overdue, durations, ratios)


def _server_metrics(statistics: Sequence[Statistics]) -> Iterator[Metric]:
    workers = sum(each.workers for each in statistics)
    yield GaugeMetricFamily("timers_workers", "Processes that are watched now.", value=workers)

    lateness = HistogramMetricFamily(
        "timers_expiry_lateness_seconds",
        "Time from a deadline until the server noticed that it had passed.",
        labels=[],
        unit="seconds",
    )
    if statistics:
        _add(lateness, [], [each.lateness for each in statistics])
    yield lateness

    dumps = HistogramMetricFamily(
        "timers_stack_dump_seconds",
        "Time it took to find out where a worker was stuck.",
        labels=["method", "outcome"],
        unit="seconds",
    )
    for labels in dict.fromkeys(labels for each in statistics for labels in each.dumps):
        histograms = [each.dumps[labels] for each in statistics if labels in each.dumps]
        _add(dumps, labels, histograms)
    yield dumps

    rejected = CounterMetricFamily(
        "timers_requests_rejected", "Requests that were refused.", labels=["reason"]
    )
    for reason in dict.fromkeys(reason for each in statistics for reason in each.rejected):
        rejected.add_metric([reason], sum(each.rejected.get(reason, 0) for each in statistics))
    yield rejected

    lost = CounterMetricFamily(
        "timers_request_events_lost",
        "Acquires and releases that are counted, and whose event or duration was not sent.",
        labels=["event"],
    )
    lost.add_metric(["timer acquired"], sum(each.lost_acquires for each in statistics))
    lost.add_metric(["timer released"], sum(each.lost_releases for each in statistics))
    yield lost

    hangs = CounterMetricFamily(
        "timers_hang_reports", "Hangs that were looked into, by what was found.", labels=["verdict"]
    )
    for verdict in Verdict:
        hangs.add_metric(
            [verdict.value], sum(each.hang_reports.get(verdict, 0) for each in statistics)
        )
    yield hangs

    yield CounterMetricFamily(
        "timers_job_stalls",
        "Times that nothing of the job moved for as long as --stall-after says.",
        value=sum(each.stalls for each in statistics),
    )
    yield GaugeMetricFamily(
        "timers_job_stalled",
        "1 while nothing of the job moves, since that was noticed; else 0.",
        value=max((int(each.is_stalled) for each in statistics), default=0),
    )

    swept = GaugeMetricFamily(
        "timers_last_sweep_timestamp_seconds",
        "When a watchdog last looked at its deadlines, in seconds since the epoch.",
        unit="seconds",
    )
    # A server that was not started yet has nothing to be late for.
    sweeps = [each.last_sweep for each in statistics if each.last_sweep > 0]
    if sweeps:
        swept.add_metric([], min(sweeps))
    yield swept


def _last_hang(pipeline: Pipeline) -> Metric:
    """Answer the question of whoever is woken: one series for the last report, none before."""
    last = GaugeMetricFamily(
        "timers_last_hang_report_timestamp_seconds",
        "When the last hang was reported, in seconds since the epoch, and who held up the others.",
        labels=["run_id", "host", "scope", "verdict", "rank", "line", "summary"],
        unit="seconds",
    )
    event = pipeline.stories.hang
    if event is not None and event.counts:
        report = event.report
        # The one that is named; of several the first one, whose scope and line help most.
        named = next(iter(report.suspects or report.lagging), None)
        rank = named.rank if named and len(report.suspects or report.lagging) == 1 else None
        host = (named.host if named else "") or this_host()
        values = (
            event.run_id or pipeline.run_id,
            host,
            (named.scope_id if named else None) or "",
            report.verdict.value,
            "" if rank is None else str(rank),
            _short_line(named),
            _summary(report, host),
        )
        labels = [printable(value)[:LABEL_CHARACTERS] for value in values]
        last.add_metric(labels, event.timestamp)
    return last


def _summary(report: HangReport, host: str) -> str:
    """Say in few words who is where: ``rank 2 on gpu-3 is stuck at data.py:22 fetch_shard``."""
    named = report.suspects or report.lagging
    if not named:
        return report.sentence.rstrip(".")
    who = ("rank", named[0].rank) if named[0].rank is not None else ("worker", named[0].pid)
    others = f" and {len(named) - 1} more" if len(named) > 1 else ""
    be = "are" if others else "is"
    how = "stuck" if report.suspects else "slow" if report.verdict is Verdict.SLOW else "waited for"
    line = _short_line(named[0])
    return f"{who[0]} {who[1]} on {host}{others} {be} {how}" + (f" at {line}" if line else "")


def _short_line(named: Suspect | None) -> str:
    """Return the line without the folders, which differ from host to host and fill a pager."""
    return (named.frame or "").rpartition("/")[2] if named else ""


def _sink_metrics(sinks: Mapping[str, SinkCounts]) -> Iterator[Metric]:
    dropped = CounterMetricFamily(
        "timers_events_dropped",
        "Events that a sink was not given, because its queue was full or it had been closed.",
        labels=["sink"],
    )
    errors = CounterMetricFamily(
        "timers_sink_errors", "Events that a sink failed to take.", labels=["sink"]
    )
    for name, counts in sinks.items():
        dropped.add_metric([printable(name)], counts.dropped)
        errors.add_metric([printable(name)], counts.errors)
    yield from (dropped, errors)


def _add(
    family: HistogramMetricFamily, labels: Sequence[str], histograms: Sequence[Histogram]
) -> None:
    bounds = histograms[0].bounds
    # Each is copied at once, so that count and buckets agree whatever is counted meanwhile.
    counts = [sum(column) for column in zip(*(list(h.counts) for h in histograms), strict=True)]
    exemplars: dict[int, tuple[str, float, float]] = {}
    for histogram in histograms:
        exemplars |= histogram.exemplars
    buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    for index, (bound, count) in enumerate(
        zip((*map(str, bounds), "+Inf"), accumulate(counts), strict=True)
    ):
        exemplar = _exemplar(exemplars.get(index))
        buckets.append((bound, count) if exemplar is None else (bound, count, exemplar))
    family.add_metric(labels, buckets, sum(histogram.total for histogram in histograms))


def _exemplar(found: tuple[str, float, float] | None) -> Exemplar | None:
    trace = trace_ids(found[0]) if found else None
    return Exemplar({"trace_id": trace.trace_id}, *found[1:]) if found and trace else None
