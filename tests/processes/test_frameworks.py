"""Lightning, Hugging Face's Trainer and MPI under ``timers run``, as they are and with a callback.

They are not among what the CI installs: ``pip install -e '.[frameworks]'``.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support.command import Cli
from support.log_lines import read_so_far
from support.mpi import mpirun
from support.processes import VICTIMS
from support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(600)
FREE = ("--http", "127.0.0.1:0")
FRAMEWORKS = ("lightning", "transformers")


def require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; it comes with pip install -e '.[frameworks]'")


def run(tmp_path: Path, job: list[str]) -> tuple[int, list[dict[str, Any]]]:
    """Run it to its end; return how it ended, and the events."""
    cli, events = Cli(tmp_path), tmp_path / "events.jsonl"
    with cli.start("run", *FREE, "--events", events, "--", *job, stderr=subprocess.DEVNULL) as done:
        done.communicate(timeout=500)
    return done.returncode, read_so_far(events)


def command(framework: str, stuck: int, callback: str, directory: Path) -> list[str]:
    script = VICTIMS / f"{framework}_training.py"
    return [sys.executable, str(script), str(stuck), callback, str(directory / "out")]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("callback", ["none", "callback"])
def test_a_training_that_works_is_timed_and_nothing_is_reported(
    tmp_path: Path, framework: str, callback: str
) -> None:
    require(framework)
    code, found = run(tmp_path, command(framework, -1, callback, tmp_path))
    assert code == 0
    assert [event["message"] for event in found if event["level"] != "info"] == []
    scopes = {e["scopes"][0]["scope_id"] for e in found if e["event"] == "scope durations"}
    own = {"lightning": "train_batch", "transformers": "train_step"}[framework]
    assert {"step", "next_batch"} <= scopes
    assert (own in scopes) == (callback == "callback")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_with_the_callback_a_step_that_is_stuck_is_ended(tmp_path: Path, framework: str) -> None:
    require(framework)
    stuck = {"lightning": 0, "transformers": 4}[framework]
    code, found = run(tmp_path, command(framework, stuck, "callback", tmp_path))
    assert code == 137
    (killed,) = [event for event in found if event["event"] == "kill worker process"]
    assert killed["frame"].endswith("read_shard")


@pytest.mark.parametrize(
    ("framework", "stuck", "rank"), [("lightning", 1, 1), ("transformers", 4, None)]
)
def test_without_a_word_of_ours_who_is_stuck_is_named(
    tmp_path: Path, framework: str, stuck: int, rank: int | None
) -> None:
    require(framework)
    assert_named(tmp_path, command(framework, stuck, "none", tmp_path), rank)


MPI = """
import socket
from mpi4py import MPI

def read_shard():
    ours, theirs = socket.socketpair()
    ours.recv(1)

for step in range(3):
    MPI.COMM_WORLD.allreduce(step)
if MPI.COMM_WORLD.Get_rank() == 1:
    read_shard()
MPI.COMM_WORLD.Barrier()
"""


def test_a_rank_of_mpi_that_is_stuck_is_named(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(MPI)
    assert_named(tmp_path, [*mpirun(2), str(script)], 1)


def assert_named(tmp_path: Path, job: list[str], rank: int | None) -> None:
    cli, events = Cli(tmp_path), tmp_path / "events.jsonl"

    def named() -> list[dict[str, Any]]:
        found = read_so_far(events)
        return [e for e in found if e["event"] == "job stalled" and "read_shard" in e["sentence"]]

    options = (*FREE, "--stall-after", "2", "--events", events)
    with cli.start("run", *options, "--", *job, stderr=subprocess.DEVNULL):
        event, *_ = eventually(named, "who is stuck is named", timeout=500)
        if rank is not None:
            assert [each["rank"] for each in event["suspects"]] == [rank]
