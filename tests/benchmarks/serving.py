"""A timer server in a process of its own, for as long as something is measured."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["serving"]

_SERVE = """
import sys, {module} as m
server = m.{server}(sys.argv[1], "benchmark"{options})
server.start()
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def serving(module: str, options: str = "", server: str = "FileTimerServer") -> Iterator[str]:
    """Run ``module.server(path, "benchmark" options)``; its path."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/address"
        script = _SERVE.format(module=module, options=options, server=server)
        process = subprocess.Popen(
            [sys.executable, "-c", script, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        try:
            yield path
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
