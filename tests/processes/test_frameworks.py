"""Lightning, Hugging Face's Trainer and MPI under ``timers run``, as they are and with a callback.

They are not among what the CI installs: ``pip install -e '.[frameworks]'``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support.command import Cli
from support.log_lines import read_so_far
from support.mpi import mpirun
from support.processes import VICTIMS
from support.waiting import eventually
from timers.linux import procfs
from timers.linux.ranks import ranks_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(600)
FREE = ("--http", "127.0.0.1:0")
FRAMEWORKS = ("lightning", "transformers")
STUCK_LINE = next(
    number
    for number, line in enumerate((VICTIMS / "lightning_training.py").read_text().splitlines(), 1)
    if line.strip() == "ours.recv(1)"
)


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


@pytest.mark.parametrize(
    ("rank", "where", "strategy"),
    [
        (0, "step", "ddp"),
        (1, "batch", "ddp"),
        (1, "early", "ddp"),
        (1, "batch", "ddp_spawn"),
        (0, "batch", "ddp_fork"),
    ],
)
def test_whichever_rank_of_lightnings_own_launcher_it_is_and_wherever(
    tmp_path: Path, rank: int, where: str, strategy: str
) -> None:
    """Rank 0 starts the others; the processes of a pool are started by one that is no rank."""
    require("lightning")
    job = [*command("lightning", rank, "none", tmp_path), where, strategy]
    assert_named(tmp_path, job, rank)


def test_of_a_trainer_under_accelerate_the_rank_that_is_stuck_is_named(tmp_path: Path) -> None:
    require("transformers")
    require("accelerate")
    # Without this option it starts one process alone, on a machine that has no GPU.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launch += ["--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    _, script, *arguments = command("transformers", 4, "none", tmp_path)
    assert_named(tmp_path, [*launch, script, *arguments, "1"], 1)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_job_that_lightning_launched_is_explained_by_the_pid_of_either_rank(
    tmp_path: Path, rank: int
) -> None:
    """With nothing of ours anywhere: what rank 0 is, only its child can tell."""
    require("lightning")
    cli = Cli(tmp_path / "explain")  # which ends, with each command, all that is its own
    with launched(Cli(tmp_path), command("lightning", rank, "none", tmp_path)) as first:

        def explained(pid: int) -> str:
            ran = cli.run("explain", pid)
            return ran.stdout if ran.returncode == 1 and "read_shard" in ran.stdout else ""

        text = eventually(lambda: explained(first), "it is explained", timeout=500)
        (second,) = [pid for pid in procfs.children(first) if ranks_of(pid).rank == 1]
        for found in (text, eventually(lambda: explained(second), "by rank 1", timeout=500)):
            assert found.startswith(f"Rank {rank} (pid {(first, second)[rank]} on ")
            assert f"lightning_training.py:{STUCK_LINE} read_shard" in found.splitlines()[0]


@contextlib.contextmanager
def launched(cli: Cli, job: list[str]) -> Iterator[int]:
    """Start a job as it is, without a watchdog; end all of its processes with the block."""
    with subprocess.Popen(
        job, env=cli.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process.pid
        finally:
            for pid in cli.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


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
