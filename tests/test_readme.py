"""The README is true: its commands work, its snippets run, its tables are complete."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import observability
from observability import open_pipeline
from observability.sinks.metrics import Metrics
from support.samples import all_events
from timers.events import Event
from timers.server.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).resolve().parent.parent
README = (TOP / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def table(heading: str) -> list[str]:
    """The first cells of the table under ``heading``."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return [row.split("|")[1] for row in rows]


def test_the_two_commands_are_one_line_each() -> None:
    quickstart, tests, *_ = blocks("sh")
    assert quickstart.count("\n") == tests.count("\n") == 1
    assert "timers run -- " in quickstart
    assert tests.strip().endswith("pytest -n 4")
    assert "\npytest -n 4\n" in (TOP / ".ci" / "run").read_text()


def test_the_first_command_runs_the_quickstart_in_a_fresh_clone(tmp_path: Path) -> None:
    if not os.environ.get("CI"):
        pytest.skip("installs from the package index: set CI=true to have it tried")
    if shutil.which("git") is None or not (TOP / ".git").exists():
        pytest.fail("needs git and a checkout, to clone it")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(TOP), str(clone)], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIMERS_")}
    # A stock Python, not the one of this virtual environment.
    path = os.pathsep.join(
        entry for entry in kept["PATH"].split(os.pathsep) if not entry.startswith(sys.prefix)
    )
    ran = subprocess.run(
        ["bash", "-c", blocks("sh")[0]],
        cwd=clone,
        env={**kept, "PATH": path},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    events = [json.loads(line)["event"] for line in ran.stderr.splitlines() if line[:1] == "{"]
    told = ["timer expired", "stack dumped", "kill worker process"]
    assert [event for event in events if event in told] == told


@pytest.mark.parametrize("code", blocks("python"))
def test_python_snippets_run(code: str) -> None:
    environment = {name: value for name, value in os.environ.items() if "TIMER" not in name}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_what_a_reap_looks_like_has_known_fields() -> None:
    lines = [json.loads(line) for block in blocks("json") for line in block.splitlines()]
    assert [line["event"] for line in lines] == [
        "timer expired",
        "stack dumped",
        "kill worker process",
    ]


def descended(kind: type[Event]) -> Iterator[type[Event]]:
    for each in kind.__subclasses__():
        yield each
        yield from descended(each)


def test_every_event_is_documented() -> None:
    documented = set(re.findall(r"`([a-z ]+)`", " ".join(table("Events"))))
    for module in pkgutil.walk_packages(observability.__path__, "observability."):
        if module.name != "observability.__main__":
            importlib.import_module(module.name)
    shipped = {
        kind
        for kind in descended(Event)
        if kind.__module__.startswith(("timers.", "observability.")) and hasattr(kind, "name")
    }
    assert {type(event) for event in all_events()} <= shipped
    assert {kind.name for kind in shipped} <= documented


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    documented = set(re.findall(r"`(timers_[a-z_]+)`", " ".join(table("Metrics"))))
    pipeline = open_pipeline(events=None, spans=False)
    statistics = Statistics()
    statistics.scope("step")
    statistics.last_sweep = 1.0
    pipeline.watch(statistics)
    text = Metrics(pipeline).exposition("text/plain")[0].decode()
    exposed = set(re.findall(r"^# TYPE (timers_[a-z_]+) ", text, re.MULTILINE))
    pipeline.close()
    assert documented == exposed
