"""Blocks entered and left while the interpreter ends: no process hangs there, and none is killed.

``TIMERS_TEST_EXITS`` is how many processes end in each way (2 by default).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.servers import FilePair, SocketPair
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.recording import Recorder

EXITS = int(os.environ.get("TIMERS_TEST_EXITS", "2"))
WAIT_SECONDS = 60
START = """
import atexit, os, sys, threading
import timers
timers.configure(getattr(timers, sys.argv[1])(sys.argv[2]))
"""
WAYS = {
    "a generator that holds a block": """
def batches():
    with timers.expires(3600, "batch"):
        yield
keep = batches()
next(keep)
""",
    "a first block in __del__": """
class Closes:
    def __del__(self):
        with timers.expires(3600, "close"):
            pass
keep = Closes()
""",
    "daemon threads at full speed": """
def work(number):
    while True:
        with timers.expires(3600, f"step {number}"):
            pass
for number in range(3):
    threading.Thread(target=work, args=(number,), daemon=True).start()
with timers.expires(3600, "main"):
    pass
""",
    "atexit": """
def end():
    with timers.expires(3600, "end"):
        with timers.expires(3600, "end"):
            pass
atexit.register(end)
""",
    "forks at exit": """
def end():
    with timers.expires(3600, "outer"):
        pid = os.fork()
        with timers.expires(3600, "inner"):
            pass
    if pid:
        assert os.waitpid(pid, 0)[1] == 0
atexit.register(end)
with timers.expires(3600, "main"):
    pass
""",
    "sys.exit inside a block, with a thread that waits in one": """
entered = threading.Event()
def wait():
    with timers.expires(3600, "waits"):
        entered.set()
        threading.Event().wait()
threading.Thread(target=wait, daemon=True).start()
entered.wait()
with timers.expires(3600, "main"):
    sys.exit(0)
""",
}


@pytest.fixture(params=[FilePair, SocketPair])
def pair(request: pytest.FixtureRequest) -> Iterator[FilePair | SocketPair]:
    pair: FilePair | SocketPair = request.param()
    yield pair
    pair.close()


@pytest.mark.timeout(120 + 10 * EXITS)
def test_every_process_ends(pair: FilePair | SocketPair, recorder: Recorder) -> None:
    server = pair.server(observer=recorder, before_kill=lambda *_: None)
    client = "SocketTimerClient" if pair.prefix else "FileTimerClient"
    for _ in range(EXITS):
        with contextlib.ExitStack() as ends:
            processes = {}
            for name, body in WAYS.items():
                command = [
                    sys.executable,
                    "-W",
                    "ignore",
                    "-c",
                    START + body,
                    client,
                    str(pair.path),
                ]
                process = ends.enter_context(subprocess.Popen(command))
                ends.callback(process.kill)
                processes[name] = process
            codes = {name: process.wait(WAIT_SECONDS) for name, process in processes.items()}
        assert codes == dict.fromkeys(WAYS, 0)
    eventually(lambda: server.statistics.workers == 0)
    assert server.statistics.scopes["batch"].acquires == EXITS
    assert sum(scope.active for scope in server.statistics.scopes.values()) == 0
    assert sum(scope.expirations for scope in server.statistics.scopes.values()) == 0
