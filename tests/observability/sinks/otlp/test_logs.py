"""Events as log records, received by a real OTLP/HTTP receiver, in the traces of their scopes."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

import pytest

from observability.sinks.filters import EventFilter
from observability.sinks.otlp.logs import LogRecordSink, log_exporter_from_environment
from observability.sinks.trace_ids import logs_wanted
from support.command import Cli
from support.otlp import attributes, receiver
from support.processes import VICTIMS
from timers.events import TimerInfo, TimerReleased, WorkerInfo

if TYPE_CHECKING:
    from pathlib import Path

LOGS = {"OTEL_LOGS_EXPORTER": "otlp"}
KILL = "kill worker process"


@pytest.mark.process
@pytest.mark.parametrize("traces", [True, False])
def test_a_reap_is_logged_in_the_trace_of_its_scope(tmp_path: Path, *, traces: bool) -> None:
    """Whether the worker traces, and so reserved an id for the span, or not."""
    with receiver() as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "RANK": "5", **LOGS}
        code = (
            "import timers, time\n"
            "timers.configure_from_env()\n"
            "with timers.expires(after=0.3, scope='step'): time.sleep(60)\n"
        )
        worker = ["-c", code] if not traces else [str(VICTIMS / "traced.py"), "-", "stuck"]
        done = Cli(tmp_path / "cli").run(
            "run", "--run-id", "train-7", "--http", "off", "--", sys.executable, *worker,
            env=environment,
        )  # fmt: skip
    assert done.returncode == 137, done.stderr
    [span], [kill] = collector.named("step"), collector.logged(KILL)
    assert kill.trace_id == span.trace_id
    assert kill.span_id == span.span_id
    assert span.start_time_unix_nano < kill.time_unix_nano
    assert (kill.severity_text, kill.severity_number) == ("error", 17)
    assert "overran step" in kill.body.string_value
    known = attributes(kill.attributes)
    assert (known["timers.rank"], known["timers.outcome"]) == (5, "killed")
    assert known["timers.verdict"] == "one_suspect"
    assert known["process.pid"] == attributes(span.attributes)["process.pid"]
    assert "timers.message" not in known
    assert collector.resource["service.name"] == "timers"
    assert collector.resource["timers.run_id"] == "train-7"
    [dump] = collector.logged("stack dumped")
    [stack] = [pair.value for pair in dump.attributes if pair.key == "timers.stack"]
    assert " step" in str(stack) or "<module>" in str(stack)
    assert not collector.logged("timer acquired")  # below the level


def released(number: int) -> TimerReleased:
    timer = TimerInfo(scope_id=f"s{number}", expiration_time=0.0, after_seconds=1.0, signal=9)
    return TimerReleased(
        timestamp=1.0, worker=WorkerInfo(pid=1234), timer=timer, elapsed_seconds=0.5
    )


def test_what_a_dead_collector_does_not_take_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", f"http://127.0.0.1:{port}/v1/logs")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    exporter = log_exporter_from_environment()
    sink = LogRecordSink(exporter, EventFilter("debug", (), ()), interval=0.01)
    assert sink.wants_requests
    for number in range(100):
        sink(released(number))
    sink.close()
    assert sink.dropped == 100


def test_only_what_asks_for_logs_by_name_has_them_sent() -> None:
    base = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    own = {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://127.0.0.1:4318/v1/logs"}
    assert logs_wanted({**base, **LOGS})
    assert logs_wanted(own)
    assert not logs_wanted(base)
    assert not logs_wanted(LOGS)
    assert not logs_wanted({**own, "OTEL_SDK_DISABLED": "true"})
    assert not logs_wanted({**own, "OTEL_LOGS_EXPORTER": "none"})
