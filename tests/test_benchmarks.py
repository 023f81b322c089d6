"""The benchmarks run, and say what they say in the shape that is promised. Never how fast."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import benchmarks.__main__
from benchmarks.targets import Target

TOP = Path(__file__).resolve().parent.parent
TITLES = {
    "cost": "Cost of one block in the worker",
    "server": "Requests that one server takes",
    "boards": "Blocks on boards",
    "lateness": "From the deadline to the signal, and to the worker's death",
    "fairness": "Stuck workers beside others at full speed",
    "growth": "With more and more active timers",
    "telling": "Events and scrapes",
    "starting": "Time to start",
    "idle": "A service with nothing to do",
    "connections": "A thousand workers on one socket",
    "training": "A job that nobody changed",
    "explaining": "From samples and recorders to the hang report",
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *arguments],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )


def is_whole(row: dict[str, Any], names: list[str]) -> bool:
    """Whether it has samples, all of them numbers, and the row that it is divided by."""
    return (
        len(row["samples"]) > 0
        and all(math.isfinite(sample) for sample in row["samples"])
        and (row["base"] is None or row["base"] in names)
    )


@pytest.mark.process
@pytest.mark.timeout(600)
def test_all_of_them_run_and_give_whole_tables() -> None:
    done = run("--quick", "--json", "--without-torch")
    assert done.returncode == 0, done.stderr
    machine, *tables, targets = [json.loads(line) for line in done.stdout.splitlines()]
    assert [table["title"] for table in tables] == list(TITLES.values())
    for table in tables:
        names = [row["name"] for row in table["rows"]]
        assert len(set(names)) == len(names) > 1
        assert [row for row in table["rows"] if not is_whole(row, names)] == []
    assert "Python" in machine["machine"]
    assert targets["title"] == "Targets"
    assert {target["verdict"] for target in targets["targets"]} <= {"met", "missed", ""}
    assert sum(target["limit"] is not None for target in targets["targets"]) >= 10


def test_an_unknown_name_is_refused_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "latency"])
    with pytest.raises(SystemExit, match=r"^2$"):
        benchmarks.__main__.main()
    refusal = capsys.readouterr().err
    assert "no benchmark named latency" in refusal
    assert all(name in refusal for name in TITLES)


@pytest.mark.parametrize(
    ("target", "asked", "verdict"),
    [
        (Target("", 3.0, "x", 3), "at most 3x", "met"),
        (Target("", 3.1, "x", 3), "at most 3x", "missed"),
        (Target("", 8.0, "x", 8, at_least=True), "at least 8x", "met"),
        (Target("", 399_999, "/s", 400_000, at_least=True), "at least 400,000 /s", "missed"),
        (Target("", 1.0, "ms"), "", ""),
    ],
)
def test_a_target_is_met_at_its_limit(target: Target, asked: str, verdict: str) -> None:
    assert target.asked == asked
    assert target.verdict == verdict
