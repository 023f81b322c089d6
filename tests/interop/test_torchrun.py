"""Our client and our server inside a real torchrun agent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from support.processes import VICTIMS
from support.torch import require_torch

require_torch()

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAIRS = 200
SECONDS = 100


class Job:
    """One torchrun of ``tests/victims/interop_job.py`` with two workers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.report_file = directory / "report"
        self.marks = directory / "marks"
        self.output = directory / "output"
        self._processes: list[subprocess.Popen[bytes]] = []
        self.marks.mkdir()
        (directory / "tmp").mkdir()

    def run(self, *launcher: str, mode: str, **environment: str) -> int:
        """Run it to its end; torchrun's exit status, negative for a signal."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TORCHELASTIC_", "TIMERS_"))
        }
        with self.output.open("wb") as output:
            process = subprocess.Popen(
                [
                    sys.executable,
                    *launcher,
                    "--standalone",
                    "--nproc-per-node=2",
                    "--max-restarts=2",
                    VICTIMS / "interop_job.py",
                    self.marks,
                    str(PAIRS),
                    mode,
                ],
                env={
                    **inherited,
                    "OMP_NUM_THREADS": "1",
                    "TMPDIR": str(self.directory / "tmp"),
                    "TORCHELASTIC_ENABLE_FILE_TIMER": "1",
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._processes.append(process)
        return process.wait(SECONDS)

    def reporting(self, whose: str, *, mode: str, **environment: str) -> int:
        """The same with the agent's timer server being one that reports."""
        launcher = (str(VICTIMS / "torch_run.py"), whose, str(self.report_file))
        return self.run(*launcher, mode=mode, **environment)

    @property
    def workers(self) -> set[str]:
        """Which workers got as far as having sent their pairs, as "rank.attempt"."""
        return {path.name for path in self.marks.iterdir()}

    @property
    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.report_file.read_text().splitlines()]

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()  # its workers end with it
            process.wait()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    found = Job(tmp_path)
    yield found
    found.close()
    print(found.output.read_text())  # shown when the test failed


def test_torchs_agent_counts_every_request_of_ours(job: Job) -> None:
    assert job.reporting("torch", mode="fine") == 0
    assert job.workers == {"0.0", "1.0"}
    assert [report["requests"] for report in job.reports] == [2 * 2 * PAIRS]


def test_torchs_agent_reaps_a_stuck_worker_of_ours_and_itself(job: Job) -> None:
    # 137 to a shell. The two restarts that were asked for never happen.
    assert job.run("-m", "torch.distributed.run", mode="stuck") == -signal.SIGKILL
    assert job.workers == {"0.0", "1.0"}


def test_our_server_in_torchs_agent_reaps_and_the_agent_restarts(job: Job) -> None:
    before = int(time.time())
    path = job.directory / "tmp" / "timers"
    environment = {"TORCHELASTIC_TIMER_FILE": str(path), "TORCHELASTIC_HEALTH_CHECK_PORT": "1"}
    assert job.reporting("ours", mode="stuck", **environment) == 0
    assert job.workers == {"0.0", "1.0", "0.1", "1.1"}
    stuck, fine = job.reports
    assert stuck["told"] == [
        "watchdog started",
        "timer expired",
        "kill worker process",
        "watchdog stopped",
    ]
    assert stuck["requests"] == 2 * 2 * PAIRS + 2
    assert fine["told"] == ["watchdog started", "watchdog stopped"]
    assert fine["requests"] == 2 * 2 * PAIRS
    for report in (stuck, fine):
        (alive,) = report["alive"]
        assert before <= alive <= time.time()
    assert not path.exists()
