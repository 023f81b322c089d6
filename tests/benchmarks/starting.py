"""How much longer a program takes to start that imports this package, beside torch's module.

The runs take turns. What is shown of an import is the difference to the bare interpreter that was
started just before it, with the same options.
"""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from .serving import TORCH
from .table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .effort import Effort

__all__ = ["BARE", "OURS", "rows"]

BARE = "a bare interpreter"
OURS = "import timers, beyond that"
_CPU = "CPU: "
_IMPORTS = {
    OURS: "import timers",
    "import observability, beyond that": "import observability",
    f"import {TORCH}, beyond that": f"import {TORCH}",
}


def rows(effort: Effort) -> Iterator[Row]:
    """Measure; torch's rows come when torch is installed."""
    torch = effort.torch and importlib.util.find_spec("torch") is not None
    programs = {name: code for name, code in _IMPORTS.items() if torch or TORCH not in code}
    wall: dict[str, list[float]] = {name: [] for name in (BARE, *programs)}
    cpu: dict[str, list[float]] = {name: [] for name in (BARE, *programs)}
    rounds = effort.of(60, 2)
    for number in range(rounds + 1):  # the first fills the caches
        for name, code in random.sample(list(programs.items()), len(programs)):
            if TORCH in code and number > effort.of(10, 1):
                continue  # seconds each
            bare, imported = _run("pass"), _run(code)
            if number == 0:
                continue
            wall[name].append(imported[0] - bare[0])
            cpu[name].append(imported[1] - bare[1])
            if name == OURS:
                wall[BARE].append(bare[0])
                cpu[BARE].append(bare[1])
    for name, samples in wall.items():
        yield Row(name, samples, "ms", BARE)
    for name, samples in cpu.items():
        yield Row(_CPU + name, samples, "ms", _CPU + BARE)


def _run(code: str) -> tuple[float, float]:
    """Wall and CPU seconds of one interpreter, from its start to its end."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-I", "-c", code])
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"python -I -c {code!r} ended with {process.returncode}")
    return wall, usage.ru_utime + usage.ru_stime
