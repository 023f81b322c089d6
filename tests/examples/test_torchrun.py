"""``examples/torchrun`` does what its README says, and so does a job with PyTorch's own timers."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from support.command import Cli, get, json_lines
from support.processes import VICTIMS
from support.torch import require_torch
from support.waiting import eventually

require_torch()

if TYPE_CHECKING:
    from collections.abc import Iterator

TRAIN = Path(__file__).resolve().parents[2] / "examples" / "torchrun" / "train.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
REAPED = ["timer expired", "stack dumped", "kill worker process"]
SECONDS = 240
pytestmark = pytest.mark.timeout(SECONDS + 60)  # PyTorch takes long to load on a busy machine

needs_digits = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None and not os.environ.get("CI"),
    reason="scikit-learn is not installed; it comes with the extra: pip install -e '.[torch]'",
)


class Job:
    """One job at a time, and what it left behind."""

    def __init__(self, directory: Path) -> None:
        self.cli = Cli(directory)
        self.cli.environment |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.events = directory / "events"
        self.output = directory / "output"
        self.reaps: list[float] = []
        """What each scrape of ``/metrics`` counted, in order."""

    def run(self, *command: object, **environment: str) -> int:
        """Run torchrun; its exit status, negative for a signal."""
        with self.output.open("w") as output:
            return subprocess.run(
                [*TORCHRUN, *map(str, command)],
                env={**self.cli.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=SECONDS,
                check=False,
            ).returncode

    def run_watched(self, *command: object) -> int:
        """Run torchrun under ``timers run`` and scrape ``/metrics`` until it ends."""
        options = ("--http", "127.0.0.1:0", "--events", self.events)
        launch = ("run", *options, "--", *TORCHRUN, *command)
        with (
            self.output.open("w") as output,
            self.cli.start(*launch, stdout=output, stderr=subprocess.STDOUT) as process,
        ):
            address = eventually(lambda: _address(process.pid), "the address of /metrics")
            eventually(lambda: self._ended(process, address), "the end of the job", SECONDS)
            return process.returncode

    def _ended(self, process: subprocess.Popen[str], address: str) -> bool:
        with contextlib.suppress(OSError):  # it may have ended since
            _, text, _ = get(address, "/metrics")
            counts = re.findall(r"^timers_reaps_total\{.*\} (\S+)$", text, re.MULTILINE)
            self.reaps.append(sum(map(float, counts)))
        return process.poll() is not None

    def lines_of(self, rank: int | None) -> list[dict[str, Any]]:
        lines = json_lines(self.events.read_text().splitlines())
        return [line for line in lines if line.get("rank") == rank]

    def expired(self, rank: int) -> list[str]:
        """What is told of a rank, but for the look at it because of another one."""
        lines = [line for line in self.lines_of(rank) if line["event"] in REAPED]
        return [line["event"] for line in lines if line.get("expired") is not False]

    def close(self) -> None:
        for pid in self.cli.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not self.cli.processes(), "the processes of the job are gone")


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    found = Job(tmp_path)
    try:
        yield found
    finally:
        found.close()
        if found.output.exists():
            print(found.output.read_text())  # shown when the test failed


def _address(pid: int) -> str | None:
    """What ``timers run`` told its command."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children():
            if address := child.environ().get("TIMERS_HTTP"):
                return address
    return None


def _line(path: Path, text: str) -> int:
    source = path.read_text().splitlines()
    (number,) = (number for number, line in enumerate(source, 1) if text in line)
    return number


def _assert_learned(output: str) -> None:
    accuracy = re.search(r"^accuracy on 360 held-out digits: (\S+)$", output, re.MULTILINE)
    assert accuracy, output
    assert float(accuracy[1]) >= 0.95


@needs_digits
def test_the_stuck_rank_is_explained_and_reaped_and_training_finishes(job: Job) -> None:
    assert job.run_watched("--max-restarts", 2, TRAIN) == 0
    output = job.output.read_text()
    assert "attempt 0: trains from epoch 0, timers on" in output
    assert "attempt 1: trains from epoch 5, timers on" in output
    assert "attempt 2" not in output
    _assert_learned(output)

    first_attempt = [line for line in job.lines_of(1) if line["restart_count"] == 0]
    assert [line["event"] for line in first_attempt] == REAPED
    _, dumped, killed = first_attempt
    stuck = f"{TRAIN}:{_line(TRAIN, 'ours.recv(1)')} get_stuck"
    assert dumped["frame"] == stuck
    assert stuck in [frame for thread in dumped["stack"] for frame in thread["frames"]]
    assert killed["outcome"] == "killed"
    assert killed["scope_id"] == "load batch"
    assert job.expired(0) == []

    [report] = [line for line in job.lines_of(None) if line["event"] == "hang report"]
    assert [suspect["rank"] for suspect in report["suspects"]] == [1]
    assert stuck in report["sentence"]

    assert set(job.reaps) == {0.0, 1.0}
    assert job.reaps[-1] == 1.0
    assert job.reaps == sorted(job.reaps)
    assert list(job.cli.temporary.glob("digits-*")) == []
    assert job.cli.processes() == []


@needs_digits
def test_under_torchs_own_server_the_same_job_dies(job: Job) -> None:
    status = job.run(
        *("--max-restarts", 2, TRAIN),
        TORCHELASTIC_ENABLE_FILE_TIMER="1",
        TORCHELASTIC_TIMER_FILE=str(job.cli.temporary / "timers"),
    )
    output = job.output.read_text()
    assert "attempt 0: trains from epoch 0, timers on" in output
    assert "epoch 4: loss" in output
    assert status == -signal.SIGKILL  # 137 to a shell
    # Nobody is left to start a second attempt.
    assert "accuracy" not in output


@needs_digits
def test_without_a_watchdog_it_simply_trains(job: Job) -> None:
    assert job.run(TRAIN) == 0
    output = job.output.read_text()
    assert "attempt 0: trains from epoch 0, timers off" in output
    _assert_learned(output)
    assert list(job.cli.temporary.glob("digits-*")) == []


def test_a_job_with_torchs_own_client_is_served_without_a_change(job: Job) -> None:
    victim = VICTIMS / "torch_client_training.py"
    assert job.run_watched("--max-restarts", 2, victim) == 0
    output = job.output.read_text()
    assert "rank 0 done on attempt 1" in output
    assert "rank 1 done on attempt 1" in output

    first_attempt = [line for line in job.lines_of(1) if line["restart_count"] == 0]
    assert [line["event"] for line in first_attempt] == REAPED
    _, dumped, killed = first_attempt
    assert dumped["frame"] == f"{victim}:{_line(victim, 'signal.pause()')} stuck_here"
    assert killed["outcome"] == "killed"
    assert job.expired(0) == []
    assert set(job.reaps) == {0.0, 1.0}
    assert job.reaps[-1] == 1.0
    assert job.cli.processes() == []
