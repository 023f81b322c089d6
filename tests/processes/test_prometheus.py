"""A real Prometheus scrapes the service during a job with a reap."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from support.command import get
from support.monitoring.servers import prometheus
from support.monitoring.tools import require
from support.processes import victim
from support.service import running
from support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}
scrape_configs:
  - job_name: timers
    static_configs: [{{targets: ["{address}"]}}]
"""


def test_one_reap_is_an_increase_of_one(tmp_path: Path) -> None:
    config = tmp_path / "prometheus.yml"
    increase = 'round(increase(timers_reaps_total{scope="stuck_scope", outcome="killed"}[5m]))'
    with running(tmp_path) as service:
        config.write_text(CONFIG.format(address=service.address))
        with prometheus(config, tmp_path / "data") as server:
            eventually(lambda: server.query("up == 1"), "the first scrape")
            with victim("file_client", str(tmp_path / "pipe"), "5") as worker:
                zero = eventually(lambda: server.query(increase), "the counter at 0")
                assert zero[0]["value"][1] == "0"
                assert worker.wait(timeout=60) == -9
            eventually(
                lambda: server.query(f"{increase} == 1"),
                f"an increase of one, not {server.query('timers_reaps_total > 0')}",
            )
        _, text, _ = get(str(service.address), "/metrics")
    promtool = require("promtool", "prometheus")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
