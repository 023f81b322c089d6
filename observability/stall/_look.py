"""What the kernel and the timers have counted of a job at one moment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from observability.explain.job import descendants
from observability.explain.rates import Counts, count
from timers.linux import procfs

from ._calls import LongCall, long_calls

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Identity = tuple[int, int]
"""Pid and start time."""


class Look(NamedTuple):
    """A job at one moment."""

    at: float
    """Seconds, on the clock of ``time.monotonic``."""
    processes: Mapping[Identity, Counts]
    python: frozenset[Identity]
    """Those that run Python: workers and what they start for themselves. Other programs come and
    go in a job that stands still, such as one that asks a GPU for its temperature."""
    blocks: int = 0
    """How often a timer was acquired or released so far."""
    calls: Mapping[tuple[Identity, int], LongCall] = {}
    """By process and thread, those that take long by themselves."""


def take_look(roots: Sequence[int], *, blocks: int) -> Look:
    """Read the counts of all processes below ``roots``, those included."""
    counts = {(pid, found.start_time): found for pid, found in count(descendants(roots)).items()}
    python = frozenset(key for key in counts if procfs.is_python(key[0]))
    calls = {(key, thread): call for key in counts for thread, call in long_calls(key[0])}
    return Look(time.monotonic(), counts, python, blocks, calls)
