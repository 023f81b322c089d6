"""How long the scopes of a run took, as events: what suggested deadlines are made from."""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from timers.server.statistics import NEAR_MISS

from .events import ScopeDurations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timers.server.statistics import Histogram, ScopeStatistics, Statistics

__all__ = ["scope_durations"]


def scope_durations(statistics: Statistics, run_id: str) -> list[ScopeDurations]:
    """One event for each scope that was left at least once."""
    now = time.time()
    return [
        ScopeDurations(
            timestamp=now, run_id=run_id, server=os.getpid(), scopes=(_entry(scope_id, scope),)
        )
        for scope_id, scope in statistics.scopes.items()
        if sum(scope.durations.counts)
    ]


def _entry(scope_id: str, scope: ScopeStatistics) -> dict[str, Any]:
    everything, warm_up = scope.durations, scope.warm_up
    steady = [total - early for total, early in zip(everything.counts, warm_up.counts, strict=True)]
    bounds = scope.ratios.bounds
    near, late = bisect_left(bounds, NEAR_MISS) + 1, bisect_left(bounds, 1.0) + 1
    return {
        "scope_id": scope_id,
        "after_seconds": scope.after_seconds,
        "near_misses": sum(scope.ratios.counts[near:late]),
        "expirations": scope.expirations,
        "warm_up": _histogram(warm_up, warm_up.counts, scope.longest_warm_up),
        "steady": _histogram(everything, steady, scope.longest_steady),
    }


def _histogram(histogram: Histogram, counts: Sequence[int], longest: float) -> dict[str, Any]:
    return {
        "count": sum(counts),
        "max_seconds": longest,
        "bounds": list(histogram.bounds),
        "counts": list(counts),
    }
