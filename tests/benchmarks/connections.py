"""A thousand workers connected to one socket server: what it holds, and how late it is then.

The workers are small processes that connect, send one request and sleep. Thirty of them get stuck,
one after the other; a sample is the time from a deadline to that worker's death.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from timers.linux import procfs

from .table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .effort import Effort

_SERVE = """
import resource, sys, timers
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
server = timers.SocketTimerServer(sys.argv[1], "benchmark", before_kill=lambda run_id, timers: None)
server.start()
for line in sys.stdin:
    print(len(server.known_workers()), flush=True)
"""
_CROWD = """
import json, os, signal, socket, sys, time
path, count, stuck = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
begin = time.monotonic() + 3 + count / 200
deadlines = {}
children = []
for number in range(count):
    deadline = begin + number * 0.05 if number < stuck else time.monotonic() + 3600
    pid = os.fork()
    if pid == 0:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(path)
        after = deadline - time.monotonic()
        connection.send(json.dumps({
            "version": 1, "pid": os.getpid(), "scope_id": "crowd", "signal": 9, "after": after,
            "expiration_time": time.time() + after, "deadline_ns": int(deadline * 1e9),
        }).encode())
        while True:
            signal.pause()
    children.append(pid)
    if number < stuck:
        deadlines[pid] = deadline
print("ready", flush=True)
late = []
for _ in range(stuck):
    pid, _ = os.wait()
    late.append(time.monotonic() - deadlines.pop(pid))
for pid in set(children):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
print(json.dumps(late), flush=True)
"""


def _start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _resident(process: subprocess.Popen[str]) -> float:
    found = procfs.stat(process.pid)
    assert found
    return float(found.resident_bytes)


def _ask(process: subprocess.Popen[str]) -> str:
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


def rows(effort: Effort) -> Iterator[Row]:
    """Measure once."""
    workers, stuck = effort.of((1000, 30), (20, 3))
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "socket")
        with _start("-c", _SERVE, path) as server:
            _ask(server)
            before = _resident(server)
            with _start("-I", "-S", "-c", _CROWD, path, str(workers), str(stuck)) as crowd:
                assert crowd.stdout
                crowd.stdout.readline()
                while int(_ask(server)) < workers:
                    time.sleep(0.01)
                after = _resident(server)
                late = json.loads(crowd.stdout.readline())
            assert int(_ask(server)) <= workers - stuck
            server.kill()
    yield Row("server without workers", [before], unit="MiB")
    yield Row(f"server with {workers} connections", [after], unit="MiB")
    yield Row("... for each connection", [(after - before) / workers], unit="KiB")
    yield Row(f"from deadline to death among {workers}", late, unit="ms")
