"""What the documents say is true: commands work, snippets run, tables are complete."""

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
from timers.auto import KINDS
from timers.events import Event
from timers.server.statistics import Statistics
from timers.transport.wire import Decoder

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    TOP / name
    for name in ("README.md", "timers/README.md", "observability/README.md", "tests/README.md")
] + sorted((TOP / ".github").glob("*.md"))


def blocks(document: str, language: str) -> list[str]:
    text = (TOP / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def table(heading: str) -> str:
    """The first cells of the table under ``heading`` of ``observability``."""
    text = (TOP / "observability" / "README.md").read_text()
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return " ".join(row.split("|")[1] for row in rows)


def test_each_kind_of_automatic_timers_is_described() -> None:
    section = (TOP / "timers" / "README.md").read_text().split("\n## Timers without code\n", 1)[1]
    assert tuple(re.findall(r"(?m)^\| `(\w+)` \|", section.split("\n## ", 1)[0])) == KINDS


@pytest.mark.process
def test_the_first_command_runs_the_quickstart_in_a_fresh_clone(tmp_path: Path) -> None:
    if not os.environ.get("CI"):
        pytest.skip("installs from the package index: set CI=true to have it tried")
    if shutil.which("git") is None or not (TOP / ".git").exists():
        pytest.fail("needs git and a checkout, to clone it")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(TOP), str(clone)], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIMERS_")}
    kept["XDG_STATE_HOME"] = str(tmp_path)
    # A stock Python, not the one of this virtual environment.
    path = os.pathsep.join(
        entry for entry in kept["PATH"].split(os.pathsep) if not entry.startswith(sys.prefix)
    )
    command, _ = blocks("README.md", "sh")
    ran = subprocess.run(
        ["bash", "-c", command],
        cwd=clone,
        env={**kept, "PATH": path},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    [log] = re.findall(r"^timers: events go to (.+)$", ran.stderr, re.MULTILINE)
    events = [json.loads(line)["event"] for line in Path(log).read_text().splitlines()]
    story = ["timer expired", "stack dumped", "kill worker process"]
    assert [event for event in events if event in story] == story


@pytest.mark.process
@pytest.mark.parametrize("document", ["README.md", "timers/README.md", "observability/README.md"])
def test_python_snippets_run(document: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if "TIMER" not in name}
    snippets = blocks(document, "python")
    assert snippets
    for number, code in enumerate(snippets):
        # From a file: a decorator without a scope asks where it stands.
        script = tmp_path / f"snippet_{number}.py"
        script.write_text(code)
        ran = subprocess.run(
            [sys.executable, "-W", "error", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, ""), code


def test_what_a_reap_looks_like_has_known_fields() -> None:
    lines = [json.loads(line) for line in "".join(blocks("README.md", "json")).splitlines()]
    assert [line["event"] for line in lines] == [
        "timer expired",
        "stack dumped",
        "kill worker process",
    ]


def test_the_lines_of_the_wire_are_understood() -> None:
    (lines,) = blocks("timers/README.md", "json")
    messages, rejections = Decoder().feed(lines.encode())
    assert (len(messages), rejections) == (2, [])


def descended(kind: type[Event]) -> Iterator[type[Event]]:
    for each in kind.__subclasses__():
        yield each
        yield from descended(each)


def test_every_event_is_documented() -> None:
    documented = set(re.findall(r"`([a-z ]+)`", table("Events")))
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
    documented = set(re.findall(r"`(timers_[a-z_]+)`", table("Metrics")))
    pipeline = open_pipeline(events=None, spans=False)
    statistics = Statistics()
    statistics.scope("step")
    statistics.last_sweep = 1.0
    pipeline.watch(statistics)
    text = Metrics(pipeline).exposition("text/plain")[0].decode()
    exposed = set(re.findall(r"^# TYPE (timers_[a-z_]+) ", text, re.MULTILINE))
    pipeline.close()
    assert documented == exposed


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_what_a_document_links_to_exists(document: Path) -> None:
    for target, heading in re.findall(
        r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", document.read_text("utf-8")
    ):
        linked = document.parent / target if target else document
        assert linked.exists(), target
        headings = re.findall(r"(?m)^#+ (.*)$", linked.read_text("utf-8")) if heading else []
        assert not heading or heading in {anchor(each) for each in headings}, heading


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize(
    "document",
    [path for path in DOCUMENTS if path.name != "CHANGELOG.md"],  # which names what went
    ids=lambda path: str(path.relative_to(TOP)),
)
def test_the_files_that_a_document_names_exist(document: Path) -> None:
    named = re.findall(
        r"`((?:timers|observability|tests|dashboards|examples)/[\w/.-]+)`", document.read_text()
    )
    assert [name for name in named if not (TOP / name).exists()] == []
