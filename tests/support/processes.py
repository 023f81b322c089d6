"""Start victims (scripts of ``tests/victims``) that say "ready" and then block, and end them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["MARK", "VICTIMS", "marked", "victim"]

VICTIMS = Path(__file__).resolve().parent.parent / "victims"
MARK = "TIMERS_TEST_MARK"
"""A variable by which a test finds what it has started, directly or not."""


def marked(mark: str) -> list[int]:
    """The living processes that were started with :data:`MARK` set to ``mark``."""
    variable, found = f"{MARK}={mark}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if variable in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def victim(
    name: str, *args: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run ``tests/victims/NAME.py ARGS`` until the block ends; entered once it said "ready".

    What it writes after "ready" can be read from ``stdout``.
    """
    process = subprocess.Popen(
        [sys.executable, str(VICTIMS / f"{name}.py"), *args],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.strip() == "ready", f"victim {name} said {line!r}"
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
