"""What there is to see: several runs with steady work, near misses, reaps, a failed reap, silence.

A scenario is a context manager that yields :class:`Seen`, the services to scrape. Tests know
nothing else of it, so that where the services come from can be replaced.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RUNS", "Seen", "trouble"]

_SERVICE = Path(__file__).with_name("service.py")
RUNS = (
    ("gpu-1", "llm-7", "steady"),
    ("gpu-2", "llm-7", "reaping"),
    ("gpu-3", "vision-3", "near"),
    ("gpu-4", "speech-1", "failing"),
    ("gpu-5", "speech-1", "silent"),
    ("gpu-6", "ranking-2", "leaving"),
    ("gpu-7", "ranking-2", "still"),
)
"""Host that a service plays, its run, and its kind (see service.py)."""


@dataclass
class Seen:
    """The services of a scenario."""

    services: dict[str, str] = field(default_factory=dict)
    """Address (``127.0.0.1:PORT``) of each one, by the name of the host it plays."""
    run_ids: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    leaving_host: str = ""
    """The host of a service that ends once it has been scraped."""
    leaving: subprocess.Popen[str] | None = None

    def leave(self) -> None:
        """End the service that leaves without a word."""
        assert self.leaving is not None
        self.leaving.kill()

    def scrape_config(self) -> str:
        """Write the targets as part of a configuration of Prometheus."""
        return "".join(
            f"      - targets: ['{address}']\n        labels: {{instance: '{host}:9464'}}\n"
            for host, address in self.services.items()
        )


@contextlib.contextmanager
def trouble(directory: Path) -> Iterator[Seen]:
    """Start real services with real workers; what is to happen has happened after half a minute."""
    seen = Seen(
        run_ids=frozenset(run_id for _, run_id, _ in RUNS),
        scopes=frozenset({"all_reduce", "load_batch", "save_checkpoint", "train_step"}),
    )
    tests = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (tests, os.environ.get("PYTHONPATH"))))
    with contextlib.ExitStack() as ended:
        started = {}
        for host, run_id, kind in RUNS:
            process = subprocess.Popen(
                [sys.executable, str(_SERVICE), str(directory), run_id, kind],
                stdout=subprocess.PIPE,
                stderr=ended.enter_context((directory / f"{kind}.stderr").open("w")),
                text=True,
                env={**os.environ, "PYTHONPATH": path},
            )
            ended.callback(_end, process)
            started[host] = process
            if kind == "leaving":
                seen.leaving_host, seen.leaving = host, process
        for host, process in started.items():
            assert process.stdout is not None
            port = process.stdout.readline().removeprefix("ready ").strip()
            assert port.isdecimal(), f"{process.args!r} did not start"
            seen.services[host] = f"127.0.0.1:{port}"
        yield seen


def _end(process: subprocess.Popen[str]) -> None:
    # Its workers end with it, because they asked the kernel to see to that.
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
