"""Names that are no UTF-8, wherever they come from: everything is served, logged and exported."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from support.command import SUPERVISED, Cli, get, json_lines
from support.log_lines import read
from support.otlp import receiver
from support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

ODD = os.fsdecode(b"run\xff\x1b[2J\n")
SHOWN = r"run\udcff\x1b[2J\x0a"
JOB = """
import os, sys, timers
timers.configure_from_env()
print(os.environ["TIMERS_HTTP"], flush=True)
with timers.expires(60, os.fsdecode(b"scope\\xff")):
    sys.stdin.readline()
"""


def test_a_run_whose_name_is_no_utf8(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    with receiver() as collector:
        environment = {"TIMERS_RUN_ID": ODD, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        events = tmp_path / os.fsdecode(b"events\xff")
        with cli.start(
            "run", "--events", events, "--level", "debug", "--", sys.executable, "-c", JOB,
            env=environment,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stdin is not None
            address = process.stdout.readline().strip()
            eventually(lambda: "timers_active" in get(address, "/metrics")[1])
            for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
                status, text, _ = get(address, "/metrics", {"Accept": accept})
                assert status == 200
                if accept == "text/plain":
                    families = {each.name: each for each in text_string_to_metric_families(text)}
                    [run] = families["timers_run_info"].samples
                    assert run.labels["run_id"] == SHOWN
            status, text, _ = get(address, "/timers")
            assert status == 200
            assert json.loads(text)["run_id"] == SHOWN
            json.dumps(json.loads(text), ensure_ascii=False).encode()
            process.stdin.close()
            assert process.wait(60) == 0
        lines = json_lines(events.read_text().splitlines())
        assert {line["run_id"] for line in lines} == {SHOWN}
        json.dumps(lines, ensure_ascii=False).encode()
        assert sorted(span.name for span in collector.spans) == [r"scope\udcff", "worker"]
    cli.assert_nothing_left()


def test_a_command_whose_name_is_no_utf8(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    events = tmp_path / "events"
    ran = cli.run("run", "--http", "off", "--events", events, "--", os.fsdecode(b"\xff"))
    assert ran.returncode == 127
    [notice] = [line for line in read(events) if line["event"] == "notice"]
    assert notice["message"] == r"\udcff: command not found"


def test_the_same_name_is_seen_by_the_job(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    command = (*SUPERVISED, "environment")
    ran = cli.run("run", "--http", "off", "--", *command, env={"TIMERS_RUN_ID": ODD})
    assert f"TIMERS_RUN_ID={SHOWN}\n" in ran.stdout
