"""Workers that get stuck beside others that enter and leave blocks as fast as they can.

64 workers keep every core, and the server, busy; eight at a time enter one block each and stay in
it. A sample is the time from such a deadline to the moment at which the server noticed. Those that
are still alive ten seconds after it were missed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import timers

from .apart import running
from .lateness import Noticed
from .table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from .effort import Effort

__all__ = ["KINDS", "MISSED", "NOTICED", "rows", "title"]

NOTICED, MISSED = "noticed", "never noticed"
KINDS = {"Socket": "over the socket", "File": "over the pipe"}
_CROWD = """
import json, os, random, signal, sys, time
import timers
name, path, busy, quiet, rounds = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
_AFTER, _PATIENCE = 0.5, 10.0

def fork(work):
    pid = os.fork()
    if pid == 0:
        timers.configure(getattr(timers, name + "TimerClient")(path))
        try:
            work()
        finally:
            os._exit(0)
    return pid

def be_busy():
    while True:
        with timers.expires(600, "busy"):
            pass

def be_quiet():
    with timers.expires(_AFTER, "quiet"):
        time.sleep(600)

others = [fork(be_busy) for _ in range(busy)]
time.sleep(2)
missed = 0
for _ in range(rounds):
    stuck = {fork(be_quiet) for _ in range(quiet)}
    end = time.monotonic() + _AFTER + _PATIENCE
    while stuck and time.monotonic() < end:
        stuck -= {pid for pid in stuck if os.waitpid(pid, os.WNOHANG)[0]}
        time.sleep(0.02)
    missed += len(stuck)
    others += stuck
    time.sleep(random.uniform(0, 0.3))
for pid in others:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print(json.dumps(missed))
"""


def title(what: str, name: str) -> str:
    """What a row of the table is called."""
    return f"{what}, {KINDS[name]}"


def rows(effort: Effort) -> Iterator[Row]:
    """Measure each pair of ours."""
    busy, quiet, rounds = effort.of((64, 8, 15), (2, 2, 1))
    for name in KINDS:
        with tempfile.TemporaryDirectory() as directory:
            path = f"{directory}/path"
            with running(_serve, name, path) as server:
                server.recv()
                crowd = [sys.executable, "-c", _CROWD, name, path]
                done = subprocess.run(
                    [*crowd, *map(str, (busy, quiet, rounds))], stdout=subprocess.PIPE, check=True
                )
                server.send("how late")
                yield Row(title(NOTICED, name), server.recv(), "ms")
                yield Row(title(MISSED, name), [float(json.loads(done.stdout))], "")


def _serve(connection: Connection, name: str, path: str) -> None:
    noticed = Noticed()
    server = getattr(timers, f"{name}TimerServer")(
        path, observer=noticed, before_kill=lambda _run_id, _timers: None
    )
    server.start()
    connection.send("ready")
    connection.recv()
    connection.send(noticed.seconds)
    connection.recv()
