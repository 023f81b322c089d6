"""torchrun's own summary says why a worker was killed, and so does the worker's standard error."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.command import SUPERVISED, Cli
from support.torch import require_torch

require_torch()

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 200
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
pytestmark = pytest.mark.timeout(SECONDS + 60)  # PyTorch takes long to load on a busy machine


def test_torchrun_says_where_the_reaped_worker_was_stuck(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    logs = tmp_path / "logs"
    redirected = ["--redirects", "3", "--log-dir", str(logs)]
    job = [*TORCHRUN, *redirected, SUPERVISED[1], "stuck"]
    arguments = ("run", "--http", "127.0.0.1:0", "--", *job)
    with cli.start(*arguments, env={"OMP_NUM_THREADS": "1"}, stderr=subprocess.STDOUT) as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, output
    said = r"traceback : reaped by timers: stuck at \S+supervised\.py:\d+ get_stuck\. Rank 0 "
    assert re.search(said, output), output
    (stderr,) = logs.rglob("stderr.log")
    line = r"(?m)^timers: rank 0 is reaped: stuck at \S+supervised\.py:\d+ get_stuck"
    assert re.search(line, stderr.read_text())
    cli.assert_nothing_left()
