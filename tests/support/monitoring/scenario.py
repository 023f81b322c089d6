"""What there is to see: several runs with steady work, near misses, a reap, a failed reap, silence.

A scenario is a context manager that yields the services to scrape. It starts them, and ends one of
them after it has been seen once. Tests only know :class:`Seen`, so that where the services come
from can be replaced.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Seen", "scripted"]

_EXPORTER = Path(__file__).with_name("exporter.py")


@dataclass
class Seen:
    """The services of a scenario, by the name of the host they play."""

    services: dict[str, str] = field(default_factory=dict)
    """Address (``127.0.0.1:PORT``) of each one."""
    leaving: subprocess.Popen[str] | None = None
    """A service that ends once it has been scraped."""

    def leave(self) -> None:
        """End the service that leaves without a word."""
        assert self.leaving is not None
        self.leaving.kill()

    def scrape_config(self) -> str:
        """The targets, as part of a configuration of Prometheus."""
        return "".join(
            f"      - targets: ['{address}']\n        labels: {{instance: '{host}:9464'}}\n"
            for host, address in self.services.items()
        )


@contextlib.contextmanager
def scripted() -> Iterator[Seen]:
    """Services whose counts follow a script: everything happens within seconds."""
    runs = (
        ("gpu-1", "llm-7", "steady"),
        ("gpu-2", "llm-7", "reaping"),
        ("gpu-3", "vision-3", "near"),
        ("gpu-4", "speech-1", "failing"),
        ("gpu-5", "speech-1", "silent"),
        ("gpu-6", "ranking-2", "leaving"),
    )
    seen = Seen()
    with contextlib.ExitStack() as ended:
        started = {}
        for host, run_id, kind in runs:
            command = [sys.executable, str(_EXPORTER), run_id, kind]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            ended.callback(_end, process)
            started[host] = process
        for host, process in started.items():
            assert process.stdout is not None
            port = process.stdout.readline().removeprefix("ready ").strip()
            assert port.isdecimal(), f"{process.args!r} did not start"
            seen.services[host] = f"127.0.0.1:{port}"
        seen.leaving = started["gpu-6"]
        yield seen


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
