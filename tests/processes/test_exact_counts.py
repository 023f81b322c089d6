"""Counters are exact to the last one under load, and the metrics stay small."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from support.command import get
from support.long_tests import LONG
from support.otlp import receiver
from support.processes import victim
from support.service import running
from support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from timers.server.statistics import Statistics

PROCESSES = 8


def total(address: str, name: str) -> float:
    _, text, _ = get(address, "/metrics")
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    )


def counted(statistics: Statistics) -> int:
    """How many acquires and releases the server knows of."""
    return sum(scope.acquires + scope.releases for scope in statistics.scopes.values())


def send(directory: Path, pairs: int, scopes: int = 1) -> None:
    """Have eight processes send ``pairs`` each, and see that none of them failed."""
    with contextlib.ExitStack() as stack:
        path = str(directory / "pipe")
        workers = [
            stack.enter_context(victim("pairs", path, str(pairs), str(scopes)))
            for _ in range(PROCESSES)
        ]
        for worker in workers:
            assert worker.wait(timeout=110) == 0


def test_many_pairs_with_metrics(tmp_path: Path) -> None:
    """A million where ``TIMERS_LONG_TESTS`` is set."""
    pairs = 125_000 if LONG else 20_000
    with running(tmp_path) as service:
        send(tmp_path, pairs)
        expected = PROCESSES * pairs
        statistics = service.server.statistics
        eventually(lambda: counted(statistics) >= 2 * expected, "all requests are read")
        address = str(service.address)
        assert total(address, "timers_acquires_total") == expected
        assert total(address, "timers_releases_total") == expected
        durations = total(address, "timers_scope_duration_seconds_count")
        assert durations + statistics.lost_releases == expected
        assert total(address, "timers_active") == 0
        assert total(address, "timers_requests_rejected_total") == 0
        assert total(address, "timers_events_dropped_total") == 0


def test_spans_arrive_or_are_counted_as_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = 2_000
    with receiver() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        with running(tmp_path) as service:
            send(tmp_path, pairs)
            expected = PROCESSES * (pairs + 1)  # one for each worker above those of its scopes
            statistics, counts = service.server.statistics, service.pipeline.sink_counts["spans"]
            eventually(lambda: counted(statistics) >= 2 * PROCESSES * pairs)
            eventually(
                lambda: (
                    len(collector.spans) + counts.dropped + statistics.lost_releases == expected
                ),
                "every span arrived or was counted",
                timeout=60,
            )
            assert total(str(service.address), "timers_acquires_total") == PROCESSES * pairs
    assert len(collector.spans) + counts.dropped + statistics.lost_releases == expected
    assert len({span.span_id for span in collector.spans}) == len(collector.spans)


def test_ten_thousand_scopes_stay_bounded(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        send(tmp_path, 10_000, scopes=10_000)
        expected = PROCESSES * 10_000
        eventually(lambda: counted(service.server.statistics) >= 2 * expected)
        address = str(service.address)
        _, text, _ = get(address, "/metrics")
        assert total(address, "timers_acquires_total") == expected
    scopes = [line for line in text.splitlines() if line.startswith("timers_acquires_total{")]
    assert len(scopes) == 201
    assert len(text) < 2_000_000
