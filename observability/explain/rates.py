"""How fast processes go, as the kernel counts: CPU time, wake-ups, bytes read and written."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from timers.linux import procfs

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Counts", "Rate", "count", "rates"]


class Counts(NamedTuple):
    """What the kernel has counted of a process at one moment; None where it does not say."""

    at_seconds: float
    start_time: int
    cpu_seconds: float
    switches: int | None
    io_bytes: int | None


class Rate(NamedTuple):
    """How fast a process went between two moments."""

    cpu: float
    """Share of one CPU; 2.0 is two of them."""
    wakes: float | None
    """How often a second its main thread was woken; None when unknown."""
    io: float | None
    """Bytes a second that it read and wrote, whatever the file; None when unknown."""

    def __str__(self) -> str:
        """Return it in words: ``97 % of a CPU, 12 wake-ups/s, 1.2 MB/s``."""
        parts = [f"{self.cpu:.0%} of a CPU"]
        if self.wakes is not None:
            parts.append(f"{self.wakes:.0f} wake-ups/s")
        if self.io:
            parts.append(f"{_bytes(self.io)}/s read and written")
        return ", ".join(parts)


def count(pids: Iterable[int]) -> dict[int, Counts]:
    """Read the counts of each of ``pids`` now; those that are gone are left out."""
    found = {}
    for pid in pids:
        stat = procfs.stat(pid)
        if stat is not None:
            found[pid] = Counts(
                time.monotonic(),
                stat.start_time,
                stat.cpu_seconds,
                procfs.voluntary_switches(pid, pid),
                procfs.io_bytes(pid),
            )
    return found


def rates(before: dict[int, Counts], after: dict[int, Counts]) -> dict[int, Rate]:
    """Compare two moments; a process that is in one of them only is left out."""
    found = {}
    for pid, now in after.items():
        then = before.get(pid)
        if then is None or then.start_time != now.start_time or now.at_seconds <= then.at_seconds:
            continue
        seconds = now.at_seconds - then.at_seconds
        found[pid] = Rate(
            max(0.0, now.cpu_seconds - then.cpu_seconds) / seconds,
            _per_second(then.switches, now.switches, seconds),
            _per_second(then.io_bytes, now.io_bytes, seconds),
        )
    return found


def _per_second(then: int | None, now: int | None, seconds: float) -> float | None:
    return None if then is None or now is None else max(0, now - then) / seconds


def _bytes(amount: float) -> str:
    for unit in ("B", "kB", "MB"):
        if amount < 1000:  # noqa: PLR2004  # from here on the next unit is shorter
            return f"{amount:.0f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
