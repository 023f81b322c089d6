"""A stuck worker of a traced job: log, metrics, span and /timers tell the same story."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.trace.v1.trace_pb2 import Status
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from support.command import Cli, get, json_lines
from support.otlp import attributes, receiver
from support.processes import VICTIMS
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from prometheus_client.core import Metric

parse_open_metrics: Callable[[str], Iterator[Metric]] = openmetrics.text_string_to_metric_families
# Says where the service is, runs the worker, and stays until its standard input ends.
JOB = ["sh", "-c", 'echo "$TIMERS_HTTP"; "$@"; cat', "sh"]
WORKER = [sys.executable, str(VICTIMS / "traced.py"), "-", "stuck"]


def samples(address: str, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one metric that are not 0, by their labels' values in order of name."""
    _, text, _ = get(address, "/metrics")
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.value
    }


def reap(address: str) -> dict[str, Any] | None:
    found = json.loads(get(address, "/timers")[1])["reaps"]
    return found[0] if found and "outcome" in found[0] else None


def test_four_places_tell_one_story(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    with receiver() as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "RANK": "5"}
        options = ["--run-id", "train-7", "--events", events, "--http", "127.0.0.1:0", "--"]
        with Cli(tmp_path / "cli").start("run", *options, *JOB, *WORKER, env=environment) as job:
            assert job.stdout
            address = job.stdout.readline().strip()
            shown = eventually(lambda: reap(address), "the reap in /timers")
            counted = samples(address, "timers_reaps_total")
            expired = samples(address, "timers_expirations_total")
            accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
            open_metrics = get(address, "/metrics", accept)[1]
            span = eventually(lambda: collector.named("step"), "the span")[0]
            job.communicate(timeout=60)
    assert job.returncode == 0  # that of the shell, which outlived its worker
    logged = {line["event"]: line for line in json_lines(events.read_text().splitlines())}
    kill, dump = logged["kill worker process"], logged["stack dumped"]

    assert counted == {("killed", "step"): 1}
    assert expired == {("step",): 1}
    assert len(collector.named("step")) == 1
    told = attributes(span.attributes)
    assert kill["run_id"] == shown["run_id"] == told["timers.run_id"] == "train-7"
    assert kill["rank"] == shown["rank"] == told["timers.rank"] == 5
    assert kill["scope_id"] == shown["scope_id"] == span.name == "step"
    assert kill["worker_pid"] == shown["worker_pid"] == told["process.pid"]
    assert kill["trace_id"] == dump["trace_id"] == shown["trace_id"] == span.trace_id.hex()
    assert kill["span_id"] == dump["span_id"] == shown["span_id"] == span.span_id.hex()
    assert span.status.code == Status.STATUS_CODE_ERROR
    [exemplar] = [
        sample.exemplar
        for family in parse_open_metrics(open_metrics)
        for sample in family.samples
        if sample.name == "timers_reaps_total" and sample.exemplar
    ]
    assert exemplar.labels == {"trace_id": kill["trace_id"], "span_id": kill["span_id"]}
    assert exemplar.value == 1
    # The worker's own span died with it; what it had started inside the block did not.
    assert kill["parent_span_id"] == span.parent_span_id.hex()
    assert [inside.parent_span_id for inside in collector.named("inside")] == [span.span_id]
    assert collector.named("train") == []
    told_of_hang = [event for event in span.events if event.name == "hang report"]
    assert [attributes(event.attributes)["timers.hang.sentence"] for event in told_of_hang] == [
        logged["hang report"]["sentence"]
    ]
    stack = next(event for event in span.events if event.name == "stack dumped")
    frame = str(attributes(stack.attributes)["timers.frame"])
    assert "traced.py" in frame
    assert frame == dump["frame"] == shown["frame"] == kill["frame"]
    # Whoever has only the last line has all of it.
    assert kill["sentence"] == logged["hang report"]["sentence"]
    assert kill["verdict"] == logged["hang report"]["verdict"]
    assert kill["report"] == f"http://{address}/ or timers report {events}"
    assert kill["message"].endswith(kill["sentence"])
    assert "overran step at " in kill["message"]
