"""The service under load: ``timers serve`` as a process of its own, as somebody would start it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from support.command import Cli, get
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from .events import EventFiles

__all__ = ["Service", "serving"]


_SERVE = """
import ctypes
ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM: it does not outlive the run
from observability.cli.main import main
main(prog_name="timers")
"""


class Service:
    """A running service, seen from outside.

    :param process: of ``timers serve``.
    :param address: where it answers HTTP.
    :param directory: of its pipe, its socket and its event files.
    :param environment: for processes that are to find it.
    """

    def __init__(
        self,
        process: subprocess.Popen[str],
        address: str,
        directory: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.process = process
        self.pid = process.pid
        self.address = address
        self.directory = directory
        self.environment = {
            **environment,
            "TIMERS_FILE": str(directory / "timers.pipe"),
            "TIMERS_SOCKET": str(directory / "timers.sock"),
        }

    def get(self, path: str) -> str:
        """What it answers; anything but 200 is an error."""
        status, text, _ = get(self.address, path)
        if status != 200:
            raise RuntimeError(f"{path} answered {status}: {text[:200]}")
        return text

    def timers(self) -> set[tuple[int, str]]:
        """Worker and scope of each timer that runs now."""
        found: list[dict[str, Any]] = json.loads(self.get("/timers?limit=10000"))["timers"]
        return {(timer["worker_pid"], timer["scope_id"]) for timer in found}

    def metrics(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Every sample: by name, and by the values of its labels in the order of their names."""
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(self.get("/metrics")):
            for sample in family.samples:
                labels = tuple(value for _, value in sorted(sample.labels.items()))
                found.setdefault(sample.name, {})[labels] = sample.value
        return found

    def rotate_events(self, events: EventFiles) -> None:
        """Take its event file away, as logrotate would."""
        events.move_away()
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> int:
        """End it; its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextlib.contextmanager
def serving(cli: Cli, directory: Path, events: EventFiles) -> Iterator[Service]:
    """Start it; when the block ends, see that it has ended, with all that it started."""
    command = [sys.executable, "-c", _SERVE, "serve", "--http", "127.0.0.1:0", "--run-id", "soak"]
    command += ["--timer-file", str(directory / "timers.pipe")]
    command += ["--timer-socket", str(directory / "timers.sock")]
    command += ["--events", str(events.path)]
    with open(directory / "service.stderr", "w") as stderr:
        process: subprocess.Popen[str] = subprocess.Popen(
            command,
            env=cli.environment,
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            text=True,
            process_group=0,  # Ctrl-C is for the run, which ends it in due time
        )
    try:

        def address() -> str | None:
            if process.poll() is not None:
                raise RuntimeError((directory / "service.stderr").read_text())
            events.poll()
            return events.http_address

        yield Service(process, eventually(address, "it says where"), directory, cli.environment)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pid in cli.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
