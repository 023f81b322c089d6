"""From the deadline to the signal and to the worker's death, on an idle and on a loaded machine.

The workers are the same for all servers (``hanging.py``): small processes that send one request
and hang, some of them at the same time. Three moments after the deadline: when our server noticed
(what its metric ``timers_expiry_lateness_seconds`` says), when the worker was given its SIGTERM,
and when it had been ended by SIGKILL. In between lies, at the default settings, the stack dump.

torch's pipe server ends its own process after a reap, so each worker there has a server of its
own, and there are few samples. Its queue server looks at deadlines only when a request comes in
or after ``max_interval``, 60 s by default, and is left out.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import timers
from observability.http.address import Address
from observability.service import Service
from observability.settings import Settings
from timers.events import Event, TimerExpired
from timers.server.reaper import ReapPolicy

from .apart import running
from .serving import TORCH
from .table import Row
from .waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from .effort import Effort

__all__ = [
    "DEATH",
    "DEFAULT",
    "IDLE",
    "LOADED",
    "NOTICED",
    "NO_DUMP",
    "SERVE",
    "SIGNAL",
    "Noticed",
    "rows",
    "title",
]

NOTICED, SIGNAL, DEATH = "noticed", "SIGTERM", "death by SIGKILL"
DEFAULT = "default settings, with stack dump"
NO_DUMP = "without stack dump"
SERVE = "timers serve, with hang report"
TORCH_AGENT = "torch as its agent starts it, max_interval=0.1"
TORCH_DEFAULT = "torch, default settings"
IDLE, LOADED = "idle", "loaded"
_SPIN = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""
_HANGING = str(Path(__file__).with_name("hanging.py"))


def title(moment: str, kind: str, machine: str) -> str:
    """What a row of the table is called."""
    return f"{machine}: {moment}, {kind}"


class _Crowd(NamedTuple):
    """How many workers hang, for how long, and how far apart (seconds)."""

    workers: int
    after: float
    spacing: float


def rows(effort: Effort) -> Iterator[Row]:
    """Measure; torch's rows come when torch is installed."""
    torch = effort.torch and importlib.util.find_spec("torch") is not None
    for machine in (IDLE, LOADED):
        with _spinning(os.cpu_count() or 1) if machine == LOADED else contextlib.nullcontext():
            # Stacks are taken one worker after the other, so that none waits for another's.
            many = effort.of(_Crowd(400, 0.3, 0.05), _Crowd(4, 0.2, 0.05))
            if machine == LOADED:
                many = many._replace(workers=many.workers * 3 // 5, spacing=2 * many.spacing)
            # All workers are looked at when one hangs: here there is but the one. The next one
            # comes so late that it is a hang of its own, looked at anew.
            single = effort.of(_Crowd(24, 0.2, 2.0), _Crowd(2, 0.2, 0.5))
            for kind, crowd in ((DEFAULT, many), (NO_DUMP, many), (SERVE, single)):
                yield from _rows(machine, kind, _ours(kind, crowd))
            if torch:
                for kind, options in ((TORCH_AGENT, {"max_interval": 0.1}), (TORCH_DEFAULT, {})):
                    if effort.quick and not options:
                        continue  # takes ten seconds
                    yield from _rows(machine, kind, _torch(effort.of(10, 2), options))


def _rows(machine: str, kind: str, found: dict[str, list[float]]) -> Iterator[Row]:
    for moment, samples in found.items():
        base = title(moment, DEFAULT, machine)
        yield Row(title(moment, kind, machine), samples, "ms", base)


def _ours(kind: str, crowd: _Crowd) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/pipe"
        with running(_serve, kind, path) as server:
            server.recv()
            found = _hang(path, crowd)
            server.send("how late")
            return {NOTICED: server.recv(), **found}


def _hang(path: str, crowd: _Crowd) -> dict[str, list[float]]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", _HANGING, path, *map(str, crowd)],
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(done.stdout)
    return {SIGNAL: found["signal"], DEATH: found["death"]}


class Noticed:
    """A sink, and an observer, that keeps how late each expiry was noticed."""

    name = "noticed"
    wants_requests = False

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, TimerExpired):
            self.seconds.append(event.lateness_seconds)

    __call__ = emit

    def flush(self, timeout: float) -> bool:
        del timeout
        return True


def _serve(connection: Connection, kind: str, path: str) -> None:
    _discard_logs()
    noticed = Noticed()
    if kind == SERVE:
        settings = Settings(run_id="benchmark", http=Address("127.0.0.1", 0), events=os.devnull)
        service = Service(path, settings, ReapPolicy())
        service.pipeline.add(noticed)
        service.start()
    else:
        options: dict[str, Any] = {}
        if kind == NO_DUMP:
            options["before_kill"] = lambda _run_id, _timers: None
        timers.FileTimerServer(path, "benchmark", observer=noticed, **options).start()
    connection.send("ready")
    connection.recv()
    connection.send(noticed.seconds)
    connection.recv()


def _torch(count: int, options: dict[str, float]) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as directory:
        paths = [f"{directory}/{number}" for number in range(count)]
        with running(_serve_torch, paths, options) as servers:
            servers.recv()
            return _hang(":".join(paths), _Crowd(count, 0.3, 0.05))


def _serve_torch(connection: Connection, paths: list[str], options: dict[str, float]) -> None:
    """A server in a process of its own at each path, forked because torch takes long to import."""
    _discard_logs()
    timer: Any = importlib.import_module(TORCH)
    ours, theirs = os.pipe()
    for path in paths:
        if os.fork() == 0:
            os.close(theirs)
            with contextlib.suppress(BaseException):
                timer.FileTimerServer(path, "benchmark", **options).start()
                os.read(ours, 1)  # until the parent has ended
            os._exit(0)
    until(lambda: all(map(os.path.exists, paths)), "torch's servers make their pipes")
    connection.send("ready")
    connection.recv()


def _discard_logs() -> None:
    """Stacks and the like are logged to stderr; that they are is a part of what is measured."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@contextlib.contextmanager
def _spinning(count: int) -> Iterator[None]:
    """Keep every core busy."""
    command = [sys.executable, "-I", "-S", "-c", _SPIN, str(os.getpid())]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
