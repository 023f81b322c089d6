"""Whether the service grows: what it holds, sampled each second from outside."""

from __future__ import annotations

import statistics
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Growth", "Sample", "Sampler", "growth", "sample"]

_MIB = 2**20
RESIDENT_SLACK = 8 * _MIB
"""Between two windows of a busy service: what the allocator rounds, and caches that fill late."""
IDLE_RESIDENT_SLACK = 16 * _MIB
"""Between a service that has just been opened and one that has worked: caches that are bounded by
number (the last 50 reaps with their stacks, 256 workers that left) were empty and are full."""
BUSY_SLACK = 8
"""Of descriptors and threads, between two windows of a busy service: who comes when, is chance."""
POOL_SLACK = 3
"""The four threads that look at workers are started as they are needed, the last maybe late."""
FEWEST = 10
"""Samples in each window; a shorter run is judged by its idle figures alone."""


class Sample(NamedTuple):
    """What a process holds at one moment."""

    at: float
    """Seconds, monotonic."""
    resident: int
    descriptors: int
    threads: int
    cpu_seconds: float


class Growth(NamedTuple):
    """One figure, early and late."""

    what: str
    first: float
    last: float
    slack: float
    unit: str = ""

    @property
    def is_bounded(self) -> bool:
        """Whether it grew by no more than the slack."""
        return self.last - self.first <= self.slack


def sample(pid: int) -> Sample:
    """Look at a process now."""
    process = psutil.Process(pid)
    with process.oneshot():
        cpu = process.cpu_times()
        return Sample(
            time.monotonic(),
            process.memory_info().rss,
            process.num_fds(),
            process.num_threads(),
            cpu.user + cpu.system,
        )


class Sampler:
    """Samples a process on a thread, each second from :meth:`start` to :meth:`stop`."""

    def __init__(self, pid: int, interval: float = 1.0) -> None:
        self.samples: list[Sample] = []
        self._pid = pid
        self._interval = interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                self.samples.append(sample(self._pid))
            except psutil.NoSuchProcess:
                return  # which the account says


def growth(samples: Sequence[Sample], idle: Sequence[Sample]) -> list[Growth]:
    """Compare the second quarter of the samples with the last, and idle after with idle before.

    The first quarter is warm-up. Of memory the medians are compared; of descriptors and threads the
    lowest, since what comes and goes with the load leaves, and what leaks does not. Idle, not one
    descriptor may have come to stay.

    :param idle: one before the load and one after it.
    """
    rows = [
        Growth("descriptors, idle", idle[0].descriptors, idle[-1].descriptors, 0),
        Growth("threads, idle", idle[0].threads, idle[-1].threads, POOL_SLACK),
        _resident("resident, idle", idle[0].resident, idle[-1].resident, IDLE_RESIDENT_SLACK),
    ]
    quarter = len(samples) // 4
    if quarter < FEWEST:
        return rows
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    return [
        _lowest("descriptors", early, late),
        _lowest("threads", early, late),
        _resident(
            "resident, busy",
            statistics.median(each.resident for each in early),
            statistics.median(each.resident for each in late),
            RESIDENT_SLACK,
        ),
        *rows,
    ]


def _lowest(what: str, early: Sequence[Sample], late: Sequence[Sample]) -> Growth:
    first, last = (min(getattr(each, what) for each in window) for window in (early, late))
    return Growth(f"{what}, busy", first, last, BUSY_SLACK)


def _resident(what: str, first: float, last: float, slack: float) -> Growth:
    return Growth(what, first / _MIB, last / _MIB, slack / _MIB, "MiB")
