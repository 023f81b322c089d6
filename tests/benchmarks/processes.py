"""Small processes that only wait, as workers for a server to hold."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["waiting_processes"]

_FORK = """
import json, os, sys
pids = []
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        os.read(0, 1)  # until nobody needs it any more
        os._exit(0)
    pids.append(pid)
print(json.dumps(pids), flush=True)
os.read(0, 1)
for pid in pids:
    os.waitpid(pid, 0)
"""


@contextlib.contextmanager
def waiting_processes(count: int) -> Iterator[list[int]]:
    """Start so many; their pids. They end with the block, or with this process."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _FORK, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        yield json.loads(process.stdout.readline())
        # Closing its pipes ends it, and its children.
