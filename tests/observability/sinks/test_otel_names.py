"""OpenTelemetry's names for the fields of log lines: nothing is lost, and the report reads them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.fields import timestamp
from observability.sinks.bounded import MAX_LINE_BYTES
from observability.sinks.log import LogSink
from observability.sinks.otel_names import from_otel, to_otel
from support.command import Cli
from timers.events import StackDumped, TimerInfo, WorkerInfo
from timers.stacks.dump import Frame, StackDump, ThreadStack

if TYPE_CHECKING:
    from pathlib import Path

FIELDS = st.sampled_from(
    ["worker_pid", "rank", "scope_id", "thread", "frame", "exception", "trace_id", "span_id",
     "host", "run_id", "message", "stack", "outcome"]
)  # fmt: skip
PLAIN = st.one_of(st.text(max_size=9), st.integers(), st.booleans(), st.lists(st.text(max_size=3)))


@given(
    st.dictionaries(FIELDS, PLAIN),
    st.sampled_from(["debug", "info", "warning", "error"]),
    st.floats(0, 4e9),
)
def test_what_was_renamed_is_renamed_back(more: dict[str, Any], level: str, at: float) -> None:
    fields = {"event": "notice", "level": level, "timestamp": timestamp(at), **more}
    record = json.loads(json.dumps(to_otel(fields)))
    assert from_otel(record) == fields
    assert set(record) <= {
        "Timestamp", "SeverityText", "SeverityNumber", "EventName", "Body", "TraceId", "SpanId",
        "Resource", "Attributes",
    }  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(["EventName", "Timestamp", "Resource", "Attributes", "Body"]),
        st.one_of(
            st.none(), st.integers(), st.text("0123456789²x"), st.dictionaries(st.text(), PLAIN)
        ),
    )
)
def test_a_line_of_somebody_else_is_read_as_far_as_it_goes(record: dict[str, Any]) -> None:
    assert isinstance(from_otel(record), dict)


def test_a_long_line_is_bounded_under_these_names_too(tmp_path: Path) -> None:
    frames = tuple(Frame("again", "/job/deep.py", number) for number in range(5000))
    dump = StackDump(pid=7, method="py-spy", threads=(ThreadStack(frames=frames),))
    timer = TimerInfo(scope_id="x" * 3000, expiration_time=1.0, after_seconds=1.0, signal=9)
    event = StackDumped(
        timestamp=1.0, worker=WorkerInfo(pid=7), timer=timer, elapsed_seconds=1.0, dump=dump
    )
    sink = LogSink(tmp_path / "events", names="otel", dump_directory=tmp_path / "dumps")
    sink(event)
    sink.close()
    line = (tmp_path / "events").read_bytes()
    assert MAX_LINE_BYTES - 300 < len(line) <= MAX_LINE_BYTES
    record = json.loads(line)
    assert record["EventName"] == "stack dumped"
    assert record["Attributes"]["timers.stack_truncated"] is True
    with open(record["Attributes"]["timers.stack_file"], encoding="utf-8") as whole:
        assert len(json.load(whole)["stack"][0]["frames"]) == 5000


@pytest.mark.process
def test_a_run_that_logs_under_these_names_is_reported_on(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    code = (
        "import timers, time\n"
        "timers.configure_from_env()\n"
        "with timers.expires(after=0.3, scope='step'): time.sleep(60)\n"
    )
    cli = Cli(tmp_path / "cli")
    done = cli.run(
        "run", "--http", "off", "--events", events, "--event-names", "otel", "--",
        sys.executable, "-c", code,
    )  # fmt: skip
    assert done.returncode == 137
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    [kill] = [line for line in lines if line["EventName"] == "kill worker process"]
    assert kill["SeverityNumber"] == 17
    assert kill["Attributes"]["timers.scope_id"] == "step"
    assert kill["Resource"]["service.name"] == "timers"
    report = cli.run("report", events)
    assert report.returncode == 1
    assert "sleeps at <string>:3" in report.stdout
