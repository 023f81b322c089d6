"""The rules as files: sound, complete with a runbook each, and unit-tested in both directions."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.build import ALERTS, HERE, RECORDING
from support.monitoring.tools import require

UNIT_TESTS = sorted((Path(__file__).parent / "rules").glob("*_test.yml"))
REQUIRED = {
    "TimersWorkerReaped",
    "TimersScopeReapedRepeatedly",
    "TimersWatchdogSilent",
    "TimersWatchdogNotSweeping",
    "TimersReapFailed",
    "TimersJobStalled",
    "TimersExpiriesLate",
    "TimersNearMissRateRising",
    "TimersRequestsRejected",
    "TimersEventsDropped",
}


def rules(path: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load(path.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        [require("promtool", "prometheus"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", RECORDING, ALERTS)


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: str(path.stem))
def test_promtool_tests_the_rules(path: Path) -> None:
    promtool("test", "rules", path)


def test_everything_that_should_alert_does() -> None:
    assert {rule["alert"] for rule in rules(ALERTS)} >= REQUIRED


@pytest.mark.parametrize("rule", rules(ALERTS), ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert {"summary", "description", "runbook_url"} <= set(rule["annotations"])
    runbook = HERE / "runbooks" / rule["annotations"]["runbook_url"].rsplit("/", 1)[1]
    text = runbook.read_text()
    assert text.startswith(f"# {rule['alert']}\n"), f"{runbook.name} is of another alert"
    assert "**Urgent?**" in text
    assert "## Look" in text
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (runbook.parent / link).exists(), f"{runbook.name} links to {link}"


def test_every_runbook_is_of_an_alert() -> None:
    names = {rule["annotations"]["runbook_url"].rsplit("/", 1)[1] for rule in rules(ALERTS)}
    assert {path.name for path in (HERE / "runbooks").iterdir()} == names
    assert len(names) == len(rules(ALERTS))


@pytest.mark.parametrize("rule", rules(ALERTS), ids=lambda rule: str(rule["alert"]))
def test_an_alert_is_tested_firing_and_not_firing(rule: dict[str, Any]) -> None:
    tests = [test for path in UNIT_TESTS for test in yaml.safe_load(path.read_text())["tests"]]
    checks = [
        check
        for test in tests
        for check in test.get("alert_rule_test", ())
        if check["alertname"] == rule["alert"]
    ]
    assert any(check["exp_alerts"] for check in checks)
    assert any(not check["exp_alerts"] for check in checks)


def test_every_recording_rule_is_tested_and_used() -> None:
    tests = "".join(path.read_text() for path in UNIT_TESTS)
    users = ALERTS.read_text() + (HERE / "timers-fleet.json").read_text()
    for rule in rules(RECORDING):
        assert rule["record"] in tests
        assert rule["record"] in users
