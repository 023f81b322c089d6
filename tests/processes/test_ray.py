"""Jobs of Ray that nobody changed under ``timers run``: timed, and named where they are stuck.

Ray is not among what the CI installs: ``pip install -e '.[ray]'``.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from support.command import Cli
from support.log_lines import block_counts, of, read_so_far
from support.processes import VICTIMS
from support.ray import require_ray
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

require_ray()

pytestmark = pytest.mark.timeout(600)
JOB = [sys.executable, str(VICTIMS / "ray_job.py")]
FREE = ("--http", "127.0.0.1:0", "--stall-after", "0")


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    made = Cli(tmp_path)
    # The path of a socket is short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
        made.environment["RAY_TMPDIR"] = directory
        yield made


def test_a_job_that_works_is_timed_and_nothing_is_reported(cli: Cli, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    options = (*FREE, "--auto-after", "task=60", "--events", events)
    with cli.start("run", *options, "--", *JOB, "works", stderr=subprocess.PIPE) as process:
        out, error = process.communicate(timeout=500)
    assert process.returncode == 0, error
    # No frame of ours is in a stack or a traceback.
    assert out.startswith("[]\n")
    assert "as it should" in out
    assert "timers/auto" not in out
    assert [event["message"] for event in read_so_far(events) if event["level"] != "info"] == []
    found = block_counts(events)
    waits = found.pop("Waiting.wait")  # of which several are under way at a time
    assert 1 <= waits <= 9
    assert found == {
        "Counter.__init__": 1,
        "Counter.add": 10,
        "Waiting.__init__": 1,
        "double": 10,
        "fail": 1,
        "stack": 1,
    }
    assert "no more automatic timers" not in error


def test_an_actor_that_is_stuck_is_named_with_its_line(cli: Cli, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    options = (*FREE, "--auto-after", "Loader.fetch=1", "--events", events)
    command = [*JOB, "stuck", str(tmp_path / "mark")]
    with cli.start("run", *options, "--", *command, stderr=subprocess.DEVNULL) as process:
        (event,) = eventually(lambda: of(events, "hang report"), "it is reported", timeout=100)
        (dumped,) = eventually(lambda: of(events, "stack dumped"), "with its stack", timeout=10)
        assert "ctor Loader 'first' (pid" in event["sentence"]
        assert "'Loader.fetch'" in event["sentence"]
        assert re.search(r"ray_job.py:26 (Loader\.)?fetch$", dumped["frame"])
        assert dumped["ray_task"] == dumped["scope_id"] == "Loader.fetch"
        assert dumped["ray_actor_name"] == "first"
        assert len(dumped["ray_task_id"]) == 48
        assert of(events, "kill worker process") == []
        process.terminate()
        process.wait(60)


def test_an_actor_that_is_killed_for_it_is_started_again_by_ray(cli: Cli, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    options = (*FREE, "--auto-after", "Loader.fetch=1", "--auto-action", "kill", "--events", events)
    command = [*JOB, "stuck", str(tmp_path / "mark")]
    with cli.start("run", *options, "--", *command, stderr=subprocess.PIPE) as process:
        out, error = process.communicate(timeout=500)
    assert process.returncode == 0, error
    assert "fetched again" in out
    (killed,) = of(events, "kill worker process")
    assert killed["outcome"] == "killed"
    assert killed["worker_name"] == "actor Loader 'first'"
    assert killed["ray_attempt"] == "0"
