"""A real service and real workers for one scenario, and every way to look at them from outside."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from support.command import TIMERS, Cli
from support.processes import VICTIMS
from support.remote import Listener, Remote
from support.waiting import answered
from timers.stacks import take as stacks

from .observation import Observation, samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["BOUND_SECONDS", "WORKER_FILE", "Stage"]

WORKER_FILE = str(VICTIMS / "worker.py")
BOUND_SECONDS = 30.0
"""For whatever has to happen: generous, because machines are slow and shared."""
_ANSWER_SECONDS = 20.0
_KEPT = re.compile(r"timers-(sample_[0-3]|process-log|span-export)$")
"""Threads that are started when first needed, one of each name, and stay: those that look at
workers for the hang report, that of the process's own log, that of the spans."""
_SETTLE_SECONDS = 15.0


class Stage:
    """What a fault prepares (before the service starts) and a scenario uses.

    :param directory: an empty one.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.seen = Observation()
        self.pipe = directory / "timers.pipe"
        self.socket = directory / "timers.sock"
        self.events: Path = directory / "events.jsonl"
        """Where the events are found; another path may be set."""
        self.events_to = ""
        """What the service is told about that, where it is something else."""
        self.http: Sequence[str] = ("--http", "127.0.0.1:0")
        self._cli = Cli(directory)
        self.environment = {**self._cli.environment}
        """Of the service."""
        self.worker_environment = {**self._cli.environment}
        self.arguments: list[str] = []
        """Further ones of ``timers serve``."""
        self.wrapper: Sequence[str] = ()
        """A program that becomes the service: it must end in exec."""
        self.command: Sequence[str] = TIMERS
        """The ``timers`` command."""
        self.worker_script = WORKER_FILE
        self.worker_wrapper: Sequence[str] = ()
        """Likewise for workers."""
        self.options: dict[str, Any] = {}
        """Of ``Popen``, for the service."""
        self.stderr: int | None = None
        """A descriptor for its stderr, which is closed here."""
        self.warm_blocks = 0
        self.service: subprocess.Popen[bytes]
        self._listener = Listener()
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._ends = contextlib.ExitStack()
        self._ends.callback(self._listener.close)
        self._address = ""
        self._before: list[str] = []
        self._said = directory / "stderr"

    def close(self) -> None:
        """Leave nothing, whatever happened."""
        self._ends.close()
        for pid in self._cli.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)

    # -- the service --------------------------------------------------------------------------

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Start the service and wait until it is ready; at the end, ask it to end."""
        if self.stderr is None:
            self.stderr = os.open(self._said, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            self.service = subprocess.Popen(
                [
                    *self.wrapper,
                    *self.command,
                    *("serve", "--events", self.events_to or str(self.events), *self.http),
                    *("--timer-file", str(self.pipe), "--timer-socket", str(self.socket)),
                    *("--run-id", "run-1", *self.arguments),
                ],
                **{
                    "env": self.environment,
                    "stdin": subprocess.DEVNULL,
                    "stdout": subprocess.DEVNULL,
                    "stderr": self.stderr,
                    **self.options,
                },
            )
        finally:
            os.close(self.stderr)
        self._ends.callback(_end, self.service)
        self._address = self.wait(self._find_address) or ""
        ready = self.wait(lambda: self.status("/-/ready") == 200)
        assert ready, f"the service did not start: {self.said()}"
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                self.service.terminate()
            self.seen.service.code = self.ended_service()

    @property
    def pid(self) -> int:
        """That of the service."""
        return self.service.pid

    def ended_service(self) -> int | None:
        """Its exit code, waiting for it; None when it does not end."""
        try:
            return self.service.wait(BOUND_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def said(self) -> str:
        """What it wrote to stderr so far."""
        return self._said.read_text(errors="replace") if self._said.exists() else ""

    def _find_address(self) -> str:
        # Not from what it says: that may be what the fault prevents.
        with contextlib.suppress(psutil.Error):
            for connection in psutil.Process(self.pid).net_connections("tcp4"):
                if connection.status == psutil.CONN_LISTEN:
                    return f"{connection.laddr.ip}:{connection.laddr.port}"
        return ""

    @property
    def address(self) -> str:
        """``HOST:PORT`` of its HTTP side."""
        return self._address

    # -- workers ------------------------------------------------------------------------------

    def worker(self, *, socket: bool = True, wrapper: Sequence[str] | None = None) -> Remote:
        """Start a worker: ``tests/victims/worker.py``."""
        address = f"socket:{self.socket}" if socket else str(self.pipe)
        process = subprocess.Popen(
            [
                *(self.worker_wrapper if wrapper is None else wrapper),
                *(sys.executable, self.worker_script, str(self._listener.port), address, "9"),
            ],
            env=self.worker_environment,
            stdin=subprocess.DEVNULL,
        )
        self._ends.callback(_end, process)
        remote = self._listener.accept()
        self._ends.callback(remote.close)
        remote.do("allow_tracing")
        self._workers[remote.pid] = process
        return remote

    def ended(self, pid: int, seconds: float = BOUND_SECONDS) -> int | None:
        """The exit code of a worker, waiting for it; None when it is still there."""
        try:
            return self._workers[pid].wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def warm_up(self, worker: Remote) -> None:
        """Let the service make what it makes on first use, and note what it has then."""
        self.warm_blocks = worker.do("pairs", "bystander", 1)
        self.wait(lambda: self.status("/metrics") == 200)
        self._before = self.quiet()

    # -- looking ------------------------------------------------------------------------------

    def wait(self, probe: Callable[[], T | None], seconds: float = BOUND_SECONDS) -> T | None:
        """Call ``probe`` until it answers something true, and return that; None if it never did."""
        return answered(probe, seconds) or None

    def get(self, path: str, *, seconds: float = _ANSWER_SECONDS) -> tuple[int, str]:
        """Status and body of what the service answers; 0 when it does not."""
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=seconds) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def status(self, path: str) -> int:
        """The status alone."""
        return self.get(path)[0]

    def timers(self) -> dict[str, Any]:
        """What /timers shows; empty when it does not answer."""
        status, body = self.get("/timers")
        return json.loads(body) if status == 200 else {}

    def open_scopes(self) -> list[str] | None:
        """The scopes of the open timers; None when there is no answer."""
        shown = self.timers()
        return [timer["scope_id"] for timer in shown["timers"]] if shown else None

    def resources(self) -> list[str]:
        """Descriptors, threads and children that the service has now."""
        root = Path(f"/proc/{self.pid}")
        found = []
        for entry in (root / "fd").iterdir():
            with contextlib.suppress(OSError):
                target = re.sub("[0-9]+]", "]", str(entry.readlink()))
                target = "the log" if target == str(self.events) else target
                found.append(f"descriptor {target}")
        for task in (root / "task").iterdir():
            with contextlib.suppress(OSError):
                found.append(f"thread {task.name}")
                found += [f"child {pid}" for pid in (task / "children").read_text().split()]
        return sorted(found)

    def quiet(self) -> list[str]:
        """The resources, when they have stopped changing (a connection of ours being closed)."""
        last: list[list[str]] = []

        def settled() -> bool:
            last.append(self.resources())
            return len(last) > 10 and all(each == last[-1] for each in last[-10:])

        self.wait(settled)
        return last[-1]

    # -- the account --------------------------------------------------------------------------

    def take_account(self) -> None:
        """Ask for everything, once all that happened has been taken note of."""
        seen = self.seen
        self.wait(self._settled, _SETTLE_SECONDS)
        self.wait(self._healthy, _SETTLE_SECONDS)
        seen.reaps = self.timers().get("reaps", [])
        seen.metrics = self.metrics()
        if not self.wait(lambda: not self._more(), _SETTLE_SECONDS):
            seen.left_meanwhile = self._more()

    def metrics(self) -> dict[Any, float]:
        """What /metrics shows; empty when it does not answer."""
        status, body = self.get("/metrics")
        return samples(body) if status == 200 else {}

    def _settled(self) -> bool:
        self.seen.metrics = self.metrics()
        with contextlib.suppress(AssertionError):
            count = self.seen.count
            reaps = count("timers_reaps_total", scope="stuck")
            return count("timers_workers") == 0 and reaps >= 2
        return False

    def _healthy(self) -> bool:
        self.seen.health = {path: self.status(path) for path in ("/-/healthy", "/-/ready")}
        return set(self.seen.health.values()) == {200}

    def _more(self) -> list[str]:
        rest = list(self._before)
        more = []
        for each in self.resources():
            if each in rest:
                rest.remove(each)
            else:
                more.append(each)
        if any(each.startswith("thread") for each in more):
            # Python tells the kernel the names of threads since 3.14 only.
            names = {
                f"thread {found.thread}": f"thread {found.name}"
                for found in stacks.take(self.pid).threads
            }
            more = [names.get(each, each) for each in more]
        kept = {each for each in more if _KEPT.search(each)}
        return [each for each in more if each not in kept or more.count(each) > 1]

    def look_behind(self) -> None:
        """See what there is when the service has ended, and what it wrote."""
        seen = self.seen
        self.wait(lambda: not self._cli.processes())
        seen.left_behind = [f"process {pid}" for pid in self._cli.processes()]
        mine = {self.pipe, self.socket, *self._cli.temporary.iterdir()}
        seen.left_behind += [str(path) for path in sorted(mine) if path.exists()]
        seen.said = self.said()
        seen.events, seen.torn = self.event_lines()

    def event_lines(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The lines of the events file that are JSON, and those that are not."""
        events, torn = [], []
        if self.events.is_file():
            for line in self.events.read_text(errors="replace").splitlines():
                try:
                    events.append(json.loads(line))
                except ValueError:
                    torn.append(line)
        return events, torn


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
