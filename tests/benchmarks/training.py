"""A job that nobody changed: what automatic timers cost a step, a call of MPI, a process without.

The runs of torch take turns, each of the same data-parallel job over gloo; a sample is the median
step of a run. Of MPI it is the mean of a thousand calls. ``python -m tests.benchmarks training``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timers.auto import auto_environment

from .table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .effort import Effort

__all__ = ["AUTO", "OFF", "rows"]

OFF = "a step of 5 ms, timers run --auto off"
AUTO = "a step of 5 ms, timers run"
BARE = "a bare interpreter"
WAITING = "a bare interpreter that waits for torch"
BARE_CALL = "MPI_Allreduce of 8 bytes by 2 ranks"
TIMED_CALL = "MPI_Allreduce of 8 bytes by 2 ranks, timers run"
_VICTIMS = Path(__file__).resolve().parent.parent / "victims"
_TIMERS = "from observability.cli.main import main; main()"


def rows(effort: Effort) -> Iterator[Row]:
    """Measure; the jobs run where torch, and MPI with mpi4py, are installed."""
    environments = {BARE: dict(os.environ), WAITING: _with_hooks()}
    took: dict[str, list[float]] = {name: [] for name in environments}
    for number in range(effort.of(100, 2) + 1):
        for name in random.sample(list(environments), len(environments)):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", "pass"], env=environments[name], check=True)
            if number:  # the first fills the caches
                took[name].append(time.perf_counter() - began)
    for name, samples in took.items():
        yield Row(name, samples, "ms", BARE)
    if shutil.which("mpirun") and importlib.util.find_spec("mpi4py"):
        calls = _calls(effort.of(100, 2))
        yield Row(BARE_CALL, calls["bare"], "us", BARE_CALL)
        yield Row(TIMED_CALL, calls["timed"], "us", BARE_CALL)
    if not (effort.torch and importlib.util.find_spec("torch")):
        return
    options = {OFF: ["--auto", "off"], AUTO: []}
    steps: dict[str, list[float]] = {name: [] for name in options}
    for _ in range(effort.of(7, 1)):
        for name in random.sample(list(options), len(options)):
            steps[name].append(_median_step(options[name], effort.of(600, 20)))
    for name, samples in steps.items():
        yield Row(name, samples, "ms", OFF)


def _with_hooks() -> dict[str, str]:
    environment = {**os.environ, **auto_environment(os.environ, "all", kill=False)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def _median_step(options: list[str], steps: int) -> float:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc-per-node", "2", str(_VICTIMS / "timed_ddp.py"), str(steps)]
    found: list[float] = _said_by(options, command)
    return statistics.median(found)


def _calls(rounds: int) -> dict[str, list[float]]:
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    launcher = ["mpirun", *root, "--oversubscribe", "-n", "2", sys.executable]
    found: dict[str, list[float]] = _said_by([], [*launcher, _VICTIMS / "timed_mpi.py", rounds])
    return found


def _said_by(options: list[str], command: Sequence[object]) -> Any:
    """Run ``command`` under ``timers run``; its last line is JSON."""
    watched = [sys.executable, "-c", _TIMERS, "run", "--http", "off", "--events", "/dev/null"]
    done = subprocess.run(
        [*watched, *options, "--", *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
