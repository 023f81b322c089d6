"""What the panels ask is what they mean: evaluated by promtool, over series made for it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from dashboards.queries import NEAR_MISS, TARGET, occurrences, quantile_of_rare, share_above
from support.monitoring.queries import Chosen, as_grafana_asks, opened_seconds
from support.monitoring.tools import require

if TYPE_CHECKING:
    from collections.abc import Mapping

FLEET, RUN = (
    Path(__file__).parents[2] / "dashboards" / f"timers-{name}.json" for name in ("fleet", "run")
)
RATIO, LATE, REAPS = (
    "timers_deadline_used_ratio",
    "timers_expiry_lateness_seconds",
    "timers_reaps_total",
)
HOSTS = {"gpu-1": "llm-7", "gpu-2": "llm-7", "gpu-3": "vision-3"}
GROWING, IDLE, ONCE = "0+60x20", "0x20", "0x5 1x15"
"""What counters do in 20 minutes, as promtool has it: a sample a minute."""


def answers(place: Path, query: str, series: dict[str, str], expected: Mapping[str, float]) -> None:
    """Let promtool evaluate a query for the run llm-7 after 20 minutes.

    :param series: values by series, which say no job.
    :param expected: thousandths by labels.
    """
    infos = {
        f'timers_run_info{{instance="{host}", run_id="{run}"}}': "1x20"
        for host, run in HOSTS.items()
    }
    asked = {
        "expr": f"round(1000 * ({Chosen('llm-7', window='4m', range='20m').fill(query)}))",
        "eval_time": "20m",
        "exp_samples": [{"labels": labels, "value": value} for labels, value in expected.items()],
    }
    given = [
        {"series": name.replace("{", '{job="training", '), "values": values}
        for name, values in (infos | series).items()
    ]
    test = {"interval": "1m", "input_series": given, "promql_expr_test": [asked]}
    (place / "test.yml").write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    done = subprocess.run(
        [require("promtool", "prometheus"), "test", "rules", place / "test.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def late(host: str, above: str, upto: str) -> dict[str, str]:
    """A host's lateness, in which the buckets up to 0.2 s do one thing, those above another."""
    bounds = {"0.1": above, "0.2": above, "0.4": upto, "+Inf": upto}
    buckets = {
        f'{LATE}_bucket{{instance="{host}", le="{le}"}}': values for le, values in bounds.items()
    }
    return {**buckets, f'{LATE}_count{{instance="{host}"}}': upto}


def test_the_quantile_of_what_is_rare_knows_the_bound_below_it(tmp_path: Path) -> None:
    query = quantile_of_rare(0.5, LATE, "", TARGET)
    series = late("gpu-1", IDLE, IDLE) | late("gpu-3", GROWING, GROWING)
    answers(tmp_path, query, series, {})
    # Between 0.2 and 0.4, although no host has anything below: not between 0 and 0.4.
    answers(tmp_path, query, series | late("gpu-2", IDLE, GROWING), {"{}": 300})


@pytest.mark.parametrize(
    ("below", "thousandths"), [("0+60x20", 0), ("0+45x20", 250), ("0x20", 1000)]
)
def test_the_share_above_a_bound(tmp_path: Path, below: str, thousandths: float) -> None:
    series = {
        f'{RATIO}_bucket{{instance="gpu-1", scope="step", le="{NEAR_MISS}"}}': below,
        f'{RATIO}_count{{instance="gpu-1", scope="step"}}': GROWING,
        f'{RATIO}_bucket{{instance="gpu-2", scope="idle", le="{NEAR_MISS}"}}': IDLE,
        f'{RATIO}_count{{instance="gpu-2", scope="idle"}}': IDLE,
        f'{RATIO}_bucket{{instance="gpu-3", scope="step", le="{NEAR_MISS}"}}': IDLE,
        f'{RATIO}_count{{instance="gpu-3", scope="step"}}': GROWING,
    }
    for over_range in (False, True):
        query = share_above(NEAR_MISS, "scope", over_range=over_range)
        answers(tmp_path, query, series, {'{scope="step"}': thousandths})


def test_what_occurred_in_the_range_is_zero_at_other_times(tmp_path: Path) -> None:
    series = {
        f'{REAPS}{{instance="gpu-1", scope="now", outcome="killed"}}': "0x18 1x2",
        f'{REAPS}{{instance="gpu-2", scope="now", outcome="killed"}}': IDLE,
        f'{REAPS}{{instance="gpu-2", scope="then", outcome="killed"}}': ONCE,
        f'{REAPS}{{instance="gpu-2", scope="never", outcome="killed"}}': IDLE,
        f'{REAPS}{{instance="gpu-3", scope="elsewhere", outcome="killed"}}': ONCE,
    }
    expected = {'{scope="now"}': 1000, '{scope="then"}': 0}
    answers(tmp_path, occurrences(REAPS, "scope"), series, expected)


@pytest.mark.parametrize(
    ("path", "seconds", "panel", "step", "window"),
    [
        (FLEET, 6 * 3600, "Reaps by scope and outcome A", "120", "[135s]"),
        (FLEET, 300, "Reaps by scope and outcome A", "60", "[75s]"),
        (FLEET, 300, "Near misses by scope A", "15", "[60s]"),
        (RUN, 3600, "Acquires and releases by scope A", "15", "[60s]"),
        (RUN, 30 * 24 * 3600, "Acquires and releases by scope A", "1800", "[1815s]"),
    ],
)
def test_grafana_computes_the_step_and_the_window_of_a_query(
    path: Path, seconds: int, panel: str, step: str, window: str
) -> None:
    [found] = (each for each in as_grafana_asks(path, Chosen(), seconds) if each.panel == panel)
    assert found.step == step
    assert window in found.expr


def test_the_fleet_is_asked_for_few_moments_however_far_it_looks_back() -> None:
    assert (opened_seconds(FLEET), opened_seconds(RUN)) == (6 * 3600, 3600)
    for hours in (1, 6, 24, 7 * 24):
        graphs = [
            each
            for each in as_grafana_asks(FLEET, Chosen(), hours * 3600)
            if not each.is_instant and "timers_run_info" in each.expr and each.panel != "Reaps"
        ]
        assert len(graphs) == 5
        # Grafana rounds the step, also down.
        assert all(hours * 3600 / int(each.step) <= 300 for each in graphs)
