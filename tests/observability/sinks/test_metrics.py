"""The metrics: names, help and units as promtool wants them; exact; bounded; OpenMetrics."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from observability.events import HangReported
from observability.hang.types import Confidence, HangReport, Suspect, Verdict
from observability.pipeline import Pipeline
from observability.sinks.metrics import LABEL_CHARACTERS, Metrics
from observability.sinks.trace_ids import derived_ids
from observability.untrusted import this_host
from support.samples import DUMP, TIMER, TRACE_ID, expired
from support.sinks import RaisingSink, RecordingSink
from timers.events import Outcome, TimerInfo, WorkerInfo, WorkerKilled
from timers.server.statistics import DUMP_LABELS, REJECTION_REASONS, Statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def busy() -> Statistics:
    """A server that has seen one of everything."""
    statistics = Statistics()
    scope = statistics.scope("all_reduce")
    scope.acquires, scope.releases, scope.expirations, scope.active = 5, 3, 1, 1
    scope.reaps[Outcome.KILLED] = 1
    for elapsed in (0.001, 0.02, 70.0):
        scope.durations.observe(elapsed, TIMER.traceparent if elapsed > 1 else None)
        scope.ratios.observe(elapsed / 60)
    statistics.workers = 8
    statistics.lateness.observe(0.002)
    statistics.dumped(DUMP.method, ok=True, seconds=DUMP.seconds, traceparent=TIMER.traceparent)
    statistics.rejected["not_json"] = 2
    statistics.last_sweep = 1_700_000_000.5
    return statistics


def watching(*statistics: Statistics) -> tuple[Pipeline, Metrics]:
    pipeline = Pipeline(RecordingSink("log"), RecordingSink("spans"))
    for each in statistics:
        pipeline.watch(each)
    return pipeline, Metrics(pipeline)


def scrape(metrics: Metrics) -> dict[str, Metric]:
    data, content_type = metrics.exposition()
    assert content_type.startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_families(data.decode())}


def promtool(data: bytes) -> str:
    """What ``promtool check metrics`` remarks; skips where there is none, except in CI."""
    path = shutil.which("promtool")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is not installed, and CI must not skip this")
        pytest.skip("promtool is not installed (it comes with Prometheus)")
    result = subprocess.run(
        [path, "check", "metrics"], input=data, capture_output=True, check=False, timeout=60
    )
    return f"{result.stdout.decode()}{result.stderr.decode()}".strip()


def test_every_metric_of_the_design_is_there_with_its_value() -> None:
    pipeline, metrics = watching(busy())
    value = metrics.registry.get_sample_value
    scope = {"scope": "all_reduce"}
    assert value("timers_acquires_total", scope) == 5
    assert value("timers_releases_total", scope) == 3
    assert value("timers_expirations_total", scope) == 1
    assert value("timers_reaps_total", {**scope, "outcome": "killed"}) == 1
    assert value("timers_active", scope) == 1
    assert value("timers_workers") == 8
    assert value("timers_scope_duration_seconds_count", scope) == 3
    assert value("timers_scope_duration_seconds_sum", scope) == pytest.approx(70.021)
    assert value("timers_scope_duration_seconds_bucket", {**scope, "le": "0.001"}) == 1
    assert value("timers_scope_duration_seconds_bucket", {**scope, "le": "60.0"}) == 2
    assert value("timers_scope_duration_seconds_bucket", {**scope, "le": "+Inf"}) == 3
    assert value("timers_deadline_used_ratio_bucket", {**scope, "le": "0.95"}) == 2
    assert value("timers_deadline_used_ratio_bucket", {**scope, "le": "1.5"}) == 3
    assert value("timers_expiry_lateness_seconds_count") == 1
    dumps = {"method": "py-spy", "outcome": "ok"}
    assert value("timers_stack_dump_seconds_count", dumps) == 1
    assert value("timers_stack_dump_seconds_sum", dumps) == 0.008
    assert value("timers_requests_rejected_total", {"reason": "not_json"}) == 2
    assert value("timers_events_dropped_total", {"sink": "log"}) == 0
    assert value("timers_sink_errors_total", {"sink": "log"}) == 0
    assert value("timers_last_sweep_timestamp_seconds") == 1_700_000_000.5
    families = scrape(metrics)
    (build,) = families["timers_build_info"].samples
    assert build.value == 1
    assert build.labels["python_version"] == platform.python_version()
    assert build.labels["version"]
    assert families["process_start_time_seconds"].samples
    assert families["python_info"].samples
    pipeline.close()


def test_known_label_sets_start_at_zero() -> None:
    statistics = Statistics()
    pipeline, metrics = watching(statistics)
    value = metrics.registry.get_sample_value
    for reason in REJECTION_REASONS:
        assert value("timers_requests_rejected_total", {"reason": reason}) == 0
    for method, outcome in DUMP_LABELS:
        labels = {"method": method, "outcome": outcome}
        assert value("timers_stack_dump_seconds_count", labels) == 0
    for sink in ("log", "spans"):
        assert value("timers_events_dropped_total", {"sink": sink}) == 0
        assert value("timers_sink_errors_total", {"sink": sink}) == 0
    assert value("timers_expiry_lateness_seconds_count") == 0
    assert value("timers_workers") == 0
    assert value("timers_last_sweep_timestamp_seconds") is None
    statistics.scope("step").acquires += 1
    for known in Outcome:
        assert value("timers_reaps_total", {"scope": "step", "outcome": known}) == 0
    assert value("timers_expirations_total", {"scope": "step"}) == 0
    assert value("timers_scope_duration_seconds_count", {"scope": "step"}) == 0
    pipeline.close()


def test_promtool_has_no_remark() -> None:
    full, full_metrics = watching(busy(), busy())
    empty, empty_metrics = watching()
    for metrics in (full_metrics, empty_metrics):
        data, _ = metrics.exposition()
        assert b"timers_acquires_total" in data
        assert promtool(data) == ""
    full.close()
    empty.close()


def test_promtool_would_remark_on_a_bad_metric() -> None:
    assert "counter metrics should have" in promtool(b"# HELP x y\n# TYPE x counter\nx 1\n")


def test_several_servers_are_summed_and_the_oldest_sweep_is_told() -> None:
    first, second, unstarted = busy(), busy(), Statistics()
    second.last_sweep += 100
    second.scope("other one").acquires = 1
    pipeline, metrics = watching(first, second, unstarted)
    value = metrics.registry.get_sample_value
    scope = {"scope": "all_reduce"}
    assert value("timers_acquires_total", scope) == 10
    assert value("timers_acquires_total", {"scope": "other one"}) == 1
    assert value("timers_reaps_total", {**scope, "outcome": "killed"}) == 2
    assert value("timers_workers") == 16
    assert value("timers_scope_duration_seconds_bucket", {**scope, "le": "60.0"}) == 4
    assert value("timers_stack_dump_seconds_count", {"method": "py-spy", "outcome": "ok"}) == 2
    assert value("timers_requests_rejected_total", {"reason": "not_json"}) == 4
    assert value("timers_last_sweep_timestamp_seconds") == 1_700_000_000.5
    pipeline.close()


def test_losses_of_sinks_are_told() -> None:
    pipeline = Pipeline(RaisingSink(OSError("disk"), "bad\n\udc80"))
    metrics = Metrics(pipeline)
    pipeline.emit(expired())
    assert pipeline.flush(30)
    pipeline.close()
    pipeline.emit(expired())
    families = scrape(metrics)
    (errors,) = families["timers_sink_errors"].samples
    (dropped,) = families["timers_events_dropped"].samples
    assert errors.labels == dropped.labels == {"sink": "bad\\x0a\\udc80"}
    assert (errors.value, dropped.value) == (1, 1)


def test_openmetrics_has_exemplars_and_units() -> None:
    pipeline, metrics = watching(busy())
    data, content_type = metrics.exposition(OPEN_METRICS)
    assert content_type.startswith("application/openmetrics-text")
    assert data.endswith(b"# EOF\n")
    assert b"# UNIT timers_scope_duration_seconds seconds\n" in data
    parse: Callable[[str], Iterator[Metric]] = open_families
    families = {family.name: family for family in parse(data.decode())}
    exemplars = [
        sample.exemplar
        for sample in families["timers_scope_duration_seconds"].samples
        if sample.exemplar
    ]
    (exemplar,) = exemplars
    assert exemplar.labels == {"trace_id": TRACE_ID}
    assert exemplar.value == 70.0
    assert any(sample.exemplar for sample in families["timers_stack_dump_seconds"].samples)
    assert families["timers_build"].type == "info"
    text, _ = metrics.exposition("text/plain")
    assert TRACE_ID.encode() not in text
    pipeline.close()


@pytest.mark.parametrize("exported", [True, False])
def test_a_reap_has_the_span_of_its_scope_as_exemplar(
    monkeypatch: pytest.MonkeyPatch, *, exported: bool
) -> None:
    """Also where the worker does not trace, when the spans of its scopes are exported."""
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    if exported:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    pipeline, metrics = watching(busy())
    pipeline.run_id = "run-7"
    timer = TimerInfo(scope_id="all_reduce", expiration_time=2.0, after_seconds=1.0, signal=9)
    worker = WorkerInfo(pid=1234, start_time=5)
    pipeline.emit(
        WorkerKilled(
            timestamp=12.0, worker=worker, timer=timer, elapsed_seconds=1.0, signal=9,
            outcome=Outcome.KILLED, timers=(),
        )
    )  # fmt: skip
    data, _ = metrics.exposition(OPEN_METRICS)
    parse: Callable[[str], Iterator[Metric]] = open_families
    families = {family.name: family for family in parse(data.decode())}
    samples = [sample for sample in families["timers_reaps"].samples if sample.value]
    ids = derived_ids("run-7", this_host(), worker, timer)
    expected = {"trace_id": ids.trace_id, "span_id": ids.span_id} if exported else None
    assert [each.exemplar and each.exemplar.labels for each in samples] == [expected]
    pipeline.close()


def test_an_exemplar_that_is_no_trace_is_left_out() -> None:
    statistics = busy()
    statistics.scope("all_reduce").durations.observe(0.2, "garbage\n")
    pipeline, metrics = watching(statistics)
    data, _ = metrics.exposition(OPEN_METRICS)
    assert b"garbage" not in data
    assert TRACE_ID.encode() in data
    pipeline.close()


@pytest.mark.slow
def test_ten_thousand_scopes_stay_bounded() -> None:
    statistics = Statistics()
    for number in range(10_000):
        statistics.scope(f"step {number} " + "x" * 3_000).acquires += 1
    pipeline, metrics = watching(statistics)
    data, _ = metrics.exposition()
    samples = scrape(metrics)["timers_acquires"].samples
    # Of the two hundred that have names of their own, and "other"; cut, they still differ.
    assert len(samples) == 201
    assert sum(sample.value for sample in samples) == 10_000
    by_scope = {sample.labels["scope"]: sample.value for sample in samples}
    assert by_scope["other"] == 9_800
    assert max(map(len, by_scope)) == LABEL_CHARACTERS
    assert len(data) < 3_000_000
    pipeline.close()


def test_names_that_become_one_label_share_its_series() -> None:
    statistics = Statistics()
    long = "x" * LABEL_CHARACTERS
    for scope in (long, long + "1", long + "2"):
        statistics.scope(scope).acquires += 1
    pipeline, metrics = watching(statistics)
    (sample,) = scrape(metrics)["timers_acquires"].samples
    assert sample.labels == {"scope": long}
    assert sample.value == 3
    pipeline.close()


@pytest.mark.parametrize("accept", [None, OPEN_METRICS])
def test_no_scope_name_breaks_a_scrape(accept: str | None) -> None:
    names = ["a\nb", "\udc80", "\x00", 'q"\\', "\r", "漢字", "", "{}", "\u2028"]
    statistics = Statistics()
    for name in names:
        statistics.scope(name).acquires += 1
    pipeline, metrics = watching(statistics)
    data, _ = metrics.exposition(accept)
    assert data.count(b"timers_acquires_total{") == len(names)
    assert b"\x00" not in data
    if accept is None:
        found = {sample.labels["scope"] for sample in scrape(metrics)["timers_acquires"].samples}
        assert {"a\\x0ab", "\\udc80", "\\x00", 'q"\\', "漢字"} <= found
        assert promtool(data) == ""
    pipeline.close()


def test_the_programs_own_registry_is_left_alone() -> None:
    before = {family.name for family in REGISTRY.collect()}
    pipeline, metrics = watching(busy())
    again = Metrics(pipeline)
    assert metrics.exposition()[0]
    assert again.exposition()[0]
    assert {family.name for family in REGISTRY.collect()} == before
    assert not [name for name in before if name.startswith("timers_")]
    pipeline.close()


# -- the last hang report ------------------------------------------------------------------------


def last_hang(*events: HangReported) -> list[dict[str, str]]:
    pipeline, metrics = watching(busy())
    for event in events:
        pipeline.emit(event)
    found = scrape(metrics)["timers_last_hang_report_timestamp_seconds"].samples
    pipeline.close()
    return [dict(sample.labels) for sample in found]


def reported(verdict: Verdict, *suspects: Suspect, **options: Any) -> HangReported:
    report = HangReport(
        verdict=verdict, confidence=Confidence.HIGH, reason="", suspects=suspects, **options
    )
    return HangReported(timestamp=1_700_000_000.0, run_id="llm-7", report=report)


STUCK = Suspect(
    pid=4711, host="gpu-3", rank=2, scope_id="load", frame="/job/data.py:22 fetch_shard"
)


def test_the_last_report_answers_who_is_stuck_where() -> None:
    assert last_hang() == []
    other = replace(STUCK, rank=7)
    event = reported(Verdict.ONE_SUSPECT, STUCK)
    assert last_hang(reported(Verdict.ONE_SUSPECT, other), event) == [
        {
            "run_id": "llm-7", "host": "gpu-3", "scope": "load", "verdict": "one_suspect",
            "rank": "2", "line": "data.py:22 fetch_shard",
            "summary": "rank 2 on gpu-3 is stuck at data.py:22 fetch_shard",
        }
    ]  # fmt: skip


def test_of_several_none_is_named_alone_and_nobody_is_accused_without_evidence() -> None:
    (several,) = last_hang(reported(Verdict.SEVERAL_SUSPECTS, STUCK, replace(STUCK, rank=3)))
    assert several["summary"] == "rank 2 on gpu-3 and 1 more are stuck at data.py:22 fetch_shard"
    assert several["rank"] == ""
    (slow,) = last_hang(reported(Verdict.SLOW, lagging=(STUCK,)))
    assert slow["summary"] == "rank 2 on gpu-3 is slow at data.py:22 fetch_shard"
    (held,) = last_hang(reported(Verdict.INCONCLUSIVE, lagging=(replace(STUCK, rank=None),)))
    assert held["summary"] == "worker 4711 on gpu-3 is waited for at data.py:22 fetch_shard"
    (nobody,) = last_hang(reported(Verdict.COMMON_WAIT, sentence="No rank differs."))
    assert nobody["summary"] == "No rank differs"
    assert nobody["rank"] == nobody["line"] == nobody["scope"] == ""


def test_whatever_it_is_called_a_label_is_short_and_printable() -> None:
    nasty = replace(STUCK, frame="\x1b[2J" * 500, host="\n" * 500, scope_id="x" * 5000)
    (labels,) = last_hang(reported(Verdict.ONE_SUSPECT, nasty))
    assert all(len(value) <= LABEL_CHARACTERS for value in labels.values())
    assert all(value.isprintable() for value in labels.values())
