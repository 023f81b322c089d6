"""A reap that ends its job reaches whoever is on call, with the answer and a link."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from dashboards.build import ALERTS, HERE, RECORDING
from support.command import SUPERVISED, Cli
from support.http import receiver
from support.monitoring import servers
from support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

ALERTMANAGER = HERE.parent / "examples" / "prometheus" / "alertmanager.yml"
# Says where the service is, waits for a line, and gets stuck.
JOB = ("sh", "-c", 'echo "$TIMERS_HTTP"; read go; exec "$@"', "sh", *SUPERVISED, "stuck")

pytestmark = pytest.mark.timeout(300)


def test_a_reap_that_ends_the_job_alerts_with_the_answer(tmp_path: Path) -> None:
    arguments = ("run", "--run-id", "llm-7", "--http", "127.0.0.1:0", "--", *JOB)
    environment = {"RANK": "2"}
    with (
        receiver() as on_call,
        Cli(tmp_path / "cli").start(*arguments, env=environment, stderr=subprocess.PIPE) as job,
    ):
        assert job.stdout
        address = job.stdout.readline().strip()
        config = tmp_path / "alertmanager.yml"
        config.write_text(
            ALERTMANAGER.read_text().replace("http://127.0.0.1:9095/", on_call.address)
        )
        with servers.alertmanager(config, tmp_path / "alerts") as alertmanager:
            config = tmp_path / "prometheus.yml"
            config.write_text(prometheus_config(address, alertmanager))
            with servers.prometheus(config, tmp_path / "data") as prometheus:
                scraped = "count_over_time(timers_run_info[1m]) > 1"
                eventually(lambda: prometheus.query(scraped), "two scrapes")
                job.communicate("\n", timeout=60)
                assert job.returncode == 128 + signal.SIGKILL
                seen = 'last_over_time(timers_reaps_total{outcome="killed"}[5m])'
                (sample,) = eventually(lambda: prometheus.query(seen), "the reap")
                assert sample["value"][1] == "1"
                alert = eventually(lambda: reaped(on_call.requests), "the alert", timeout=120)
    annotations = alert["annotations"]
    where = r"supervised\.py:\d+ get_stuck"
    answer = rf"rank 2 on {re.escape(socket.gethostname())} is stuck at {where} \(run llm-7\)"
    assert re.fullmatch(answer, annotations["summary"])
    assert annotations["page"] == f"http://{address}/"
    assert annotations["dashboard"].endswith("/d/timers-run?var-run_id=llm-7")
    assert annotations["run_id"] == "llm-7"


def prometheus_config(address: str, alertmanager: str) -> str:
    return f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ['{RECORDING}', '{ALERTS}']
alerting:
  alertmanagers:
    - static_configs: [{{targets: ['{alertmanager.removeprefix("http://")}']}}]
scrape_configs:
  - job_name: timers
    static_configs: [{{targets: ['{address}']}}]
"""


def reaped(requests: list[tuple[str, Any]]) -> dict[str, Any]:
    for _, body in requests:
        for alert in body["alerts"]:
            if alert["labels"]["alertname"] == "TimersWorkerReaped":
                found: dict[str, Any] = alert
                return found
    return {}
