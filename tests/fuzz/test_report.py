"""``timers report`` on a file that is too large for it: bounded memory, and an end."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from support.children import same_path

if TYPE_CHECKING:
    from pathlib import Path

MEMORY = 448 << 20
"""Bytes of address space: enough for the command, not for the file."""
SIZE = 512 << 20
BOUNDED = f"""
import resource, runpy
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
runpy.run_module("observability", run_name="__main__", alter_sys=True)
"""


def test_a_line_without_end(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "run finished", "run_id": "r"}\n')
    with path.open("r+b") as file:
        file.truncate(SIZE)  # a hole, which reads as NULs and takes no room
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, "report", str(path)],
        env=same_path(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.stdout == "No timer expired.\n"
    assert "note: skipped 1 lines that are no events" in done.stderr
    assert done.returncode == 0
