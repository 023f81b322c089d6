"""A Ray cluster of two nodes, a watchdog on each: hung work is named, reaped, retried, finished.

Ray is not among what the CI installs: ``pip install -e '.[ray]'``.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.log_lines import read_so_far
from support.processes import MARK, VICTIMS, marked
from support.ray import require_ray
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

require_ray()

pytestmark = pytest.mark.timeout(600)
STUCK = "ray_cluster.py:35 block"


class Job:
    """Runs a victim with a directory for its events, another for its marks, one for Ray."""

    def __init__(self, directory: Path, short: str) -> None:
        self.short = Path(short)
        self._events = directory / "events"
        self._marks = directory / "marks"
        self._mark = secrets.token_hex(16)
        self._events.mkdir()
        self._marks.mkdir()

    def run(self, victim: str, *arguments: str) -> tuple[list[str], str]:
        """Run it to its end; return its lines, and what it wrote to stderr."""
        names = ("TIMERS_", "RAY_", "TORCHELASTIC_", "OTEL_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(names)}
        environment = {**kept, "RAY_TMPDIR": str(self.short), MARK: self._mark}
        command = [sys.executable, str(VICTIMS / victim), str(self._events / "{node}.jsonl")]
        try:
            ran = subprocess.run(
                [*command, str(self._marks), *arguments],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=500,
            )
        finally:
            self._clean_up()
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines(), ran.stderr

    def _clean_up(self) -> None:
        """End what a victim that failed has left; others leave nothing, after a while."""
        with contextlib.suppress(AssertionError):
            eventually(lambda: not marked(self._mark), "Ray has ended", timeout=20)
        for pid in marked(self._mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def events(self) -> dict[str, list[dict[str, Any]]]:
        """By node, its events."""
        return {path.stem: read_so_far(path) for path in self._events.iterdir()}

    def named(self, name: str) -> list[dict[str, Any]]:
        """The events of this name, of all nodes."""
        return [each for found in self.events().values() for each in found if each["event"] == name]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    # The path of a socket is short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
        yield Job(tmp_path, directory)


def results(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines if line.startswith("{")]


def first_by_task(events: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each task the first event: on a slow machine more attempts than one may overrun."""
    return {event["ray_task"]: event for event in reversed(events)}


def test_a_hung_actor_and_a_hung_task_are_named_reaped_retried_and_finish(job: Job) -> None:
    lines, _ = job.run("ray_cluster.py", "stuck")
    nodes, actor, task, _ = results(lines)
    assert actor == {"value": "actor is done"}
    assert task == {"value": "task is done"}

    found = first_by_task(job.named("kill worker process"))
    assert sorted(found) == ["Loader.fetch", "shard"]
    assert {event["outcome"] for event in found.values()} == {"killed"}
    method, function = found["Loader.fetch"], found["shard"]
    assert method["worker_name"] == "actor Loader 'first'"
    assert method["ray_actor_name"] == "first"
    assert function["worker_name"] == "Ray worker"
    assert sorted([method["ray_node_id"], function["ray_node_id"]]) == nodes["nodes"]
    for event in found.values():
        assert STUCK in event["frame"]
        assert event["ray_attempt"] == "0"
        assert len(event["ray_task_id"]) == 48
        assert event["run_id"] == event["ray_job_id"] == "01000000"

    # One report over both nodes comes before any kill.
    first = []
    for events in job.events().values():
        names = [event["event"] for event in events]
        assert names.index("hang report") < names.index("kill worker process")
        first.append(events[names.index("hang report")])
    assert len(first) == 2
    assert first[0]["sentence"] == first[1]["sentence"]
    assert [(event["hosts"], event["unheard"]) for event in first] == [(2, [])] * 2
    assert sorted(event["counts"] for event in first) == [False, True]
    # Who only waits for work is not in it.
    assert [event["workers"] for event in first] == [2, 2]


def test_the_error_of_what_is_not_retried_names_the_reap(job: Job) -> None:
    lines, error = job.run("ray_cluster.py", "doomed")
    _, actor, task, awaited = results(lines)
    assert (actor["error"], task["error"]) == ("ActorDiedError", "WorkerCrashedError")
    for found, scope, who in (
        (actor, "Loader.fetch", "actor Loader 'first', pid"),
        (task, "shard", "Ray worker, pid"),
    ):
        *_, note = found["text"].splitlines()
        assert note.startswith(f"timers: {scope} was reaped on ")
        assert who in note
        assert STUCK in note
    # Where nothing can be asked, the error is as Ray makes it.
    assert awaited == {"awaited": "WorkerCrashedError"}
    assert "is reaped: it overran Loader.fetch" in error


@pytest.mark.parametrize("how", ["alone", "orphaned"])
def test_what_fails_meanwhile_keeps_nobody_from_being_reaped(job: Job, how: str) -> None:
    """A meeting that is gone, and watchdogs that are killed: Ray starts the latter again."""
    lines, _ = job.run("ray_cluster.py", how)
    _, actor, task, _ = results(lines)
    assert (actor, task) == ({"value": "actor is done"}, {"value": "task is done"})
    found = {event["ray_task"] for event in job.named("kill worker process")}
    assert found == {"Loader.fetch", "shard"}


def test_where_nothing_hangs_nothing_is_reported_and_nothing_stays(job: Job) -> None:
    lines, _ = job.run("ray_cluster.py", "works")
    _, actor, task, _ = results(lines)
    assert (actor, task) == ({"value": "actor is done"}, {"value": "task is done"})
    found = [event for events in job.events().values() for event in events]
    assert [event["message"] for event in found if event["level"] != "info"] == []
    assert not (job.short / "t").exists()


def test_a_rank_of_ray_train_is_named_and_the_training_goes_on(job: Job) -> None:
    pytest.importorskip("pyarrow", reason="Ray Train wants it: pip install 'ray[train]'")
    job.run("ray_train.py")
    (killed,) = job.named("kill worker process")
    assert (killed["rank"], killed["scope_id"]) == (1, "train_step")
    assert killed["sentence"].startswith("Rank 1, actor RayTrainWorker (pid ")
    assert "while the other rank is waiting in report" in killed["sentence"]
    assert "ray_train.py:29 " in killed["frame"]
