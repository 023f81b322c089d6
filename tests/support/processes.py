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

__all__ = ["VICTIMS", "victim"]

VICTIMS = Path(__file__).resolve().parent.parent / "victims"


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
