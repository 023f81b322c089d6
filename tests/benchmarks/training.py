"""A job that nobody changed: what automatic timers cost each step, and a process without torch.

The runs take turns, each of the same data-parallel job over gloo; a sample is the median step of a
run. ``python -m tests.benchmarks training``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from timers.auto import auto_environment

from .table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .effort import Effort

__all__ = ["AUTO", "OFF", "rows"]

OFF = "a step of 5 ms, timers run --auto off"
AUTO = "a step of 5 ms, timers run"
BARE = "a bare interpreter"
WAITING = "a bare interpreter that waits for torch"
_VICTIM = Path(__file__).resolve().parent.parent / "victims" / "timed_ddp.py"
_TIMERS = "from observability.cli.main import main; main()"


def rows(effort: Effort) -> Iterator[Row]:
    """Measure; the job runs where torch is installed."""
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
    command = [*launcher, "--nproc-per-node", "2", str(_VICTIM), str(steps)]
    watched = [sys.executable, "-c", _TIMERS, "run", "--http", "off", "--events", "/dev/null"]
    done = subprocess.run(
        [*watched, *options, "--", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return statistics.median(found)
