"""What nobody can serve without is asked for at the start, where somebody reads the answer."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from faults.machine import mount_reason
from support.command import TIMERS, Cli

if TYPE_CHECKING:
    from pathlib import Path

WITHOUT_PROC = 'mount -t tmpfs tmpfs /proc && exec "$@"'


def test_without_proc_nothing_is_served(tmp_path: Path) -> None:
    reason = mount_reason()
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(f"CI has to show this, and cannot: {reason}")
        pytest.skip(reason)
    pipe = tmp_path / "timers.pipe"
    ran = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", WITHOUT_PROC, "sh"),
            *(*TIMERS, "serve", "--http", "127.0.0.1:0", "--timer-file", str(pipe)),
        ],
        env=Cli(tmp_path).environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2
    assert "/proc" in ran.stderr
    assert not pipe.exists()
