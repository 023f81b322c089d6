"""What was seen of one scenario: plain data, on which each promise is judged by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Ending", "Observation", "WorkerSeen", "samples"]

Labels = tuple[tuple[str, str], ...]


@dataclass(kw_only=True)
class Ending:
    """How a process ended."""

    code: int | None = None
    """As of ``Popen``: minus the signal that ended it. None: it was still there."""


@dataclass(kw_only=True)
class WorkerSeen(Ending):
    """One worker of the scenario."""

    pid: int = 0
    frame: str = ""
    """Where a stuck one is stuck, as the log names it: ``file:line function``."""
    blocks: int = 0
    """How many blocks it has entered and left."""


@dataclass(kw_only=True)
class Observation:
    """One scenario. What could not be had is empty."""

    first: WorkerSeen = field(default_factory=WorkerSeen)
    """The worker that got stuck while the fault was there."""
    second: WorkerSeen = field(default_factory=WorkerSeen)
    """One that started, and got stuck, afterwards."""
    bystander: WorkerSeen = field(default_factory=WorkerSeen)
    """One that was in a block of its own all the time, and left it when the others were gone."""
    bystander_lived: bool = False
    """Whether it was there after the others had been reaped."""
    open_meanwhile: list[str] = field(default_factory=list)
    """The scopes of the timers that /timers showed between the two reaps."""
    health: dict[str, int] = field(default_factory=dict)
    """Path to HTTP status, asked at the end; 0: no answer."""
    metrics: dict[tuple[str, Labels], float] = field(default_factory=dict)
    """The last /metrics: see :meth:`count`."""
    reaps: list[dict[str, Any]] = field(default_factory=list)
    """The reaps that /timers showed at the end, the latest first."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """The lines of the events file that are JSON objects."""
    torn: list[str] = field(default_factory=list)
    """Its other lines."""
    said: str = ""
    """What the service wrote to stderr."""
    left_meanwhile: list[str] = field(default_factory=list)
    """Descriptors, threads and children that the service had at the end and not before."""
    left_behind: list[str] = field(default_factory=list)
    """Processes and files that were there when the service had ended."""
    service: Ending = field(default_factory=Ending)
    notes: dict[str, Any] = field(default_factory=dict)
    """What the fault itself saw."""

    def count(self, name: str, **labels: str) -> float:
        """The sum of the samples of ``name`` that have these labels; fails when there is none."""
        wanted = set(labels.items())
        found = [
            value
            for (sample, pairs), value in self.metrics.items()
            if sample == name and wanted <= set(pairs)
        ]
        assert found, f"no sample {name} with {labels} in /metrics"
        return sum(found)

    def told(self, pid: int) -> list[dict[str, Any]]:
        """The events of one worker, in order.

        Where pids are recycled by the thousand, a later process may have had its pid as well.
        """
        return [
            line
            for line in self.events
            if line.get("worker_pid") == pid and line.get("scope_id") != "recycled"
        ]

    def named(self, name: str, pid: int | None = None) -> list[dict[str, Any]]:
        """The events of one name, of one worker or of all."""
        lines = self.events if pid is None else self.told(pid)
        return [line for line in lines if line["event"] == name]


def samples(text: str) -> dict[tuple[str, Labels], float]:
    """Read what /metrics answered."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
