"""Exact counts of what a server did. Written by the methods of this module, and by nothing else.

The watchdog thread (and, for reaps, the reaping threads, under the server's lock) call those that
count; any thread may read the attributes at any time. Reading takes no lock: every value is one
integer or float, and a reader that comes between two increments sees a state that was true a
moment ago. Nothing here goes through a queue, so nothing can be dropped.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING

from timers.events import Outcome
from timers.transport.board import DURATION_BUCKETS, RATIO_BUCKETS, WARM_UP_USES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "DUMP_LABELS",
    "DURATION_BUCKETS",
    "LATENESS_BUCKETS",
    "NEAR_MISS",
    "OTHER",
    "RATIO_BUCKETS",
    "WARM_UP_USES",
    "Histogram",
    "Statistics",
]

NEAR_MISS = 0.8
"""Share of its deadline from which on a block that ended in time was a near miss."""
LATENESS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0)
"""Upper bounds, in seconds, of ``timers_expiry_lateness_seconds`` and of stack dump times."""

OTHER = "other"
"""The scope that stands for all scopes beyond ``max_scopes``."""

REJECTION_REASONS = (
    "empty",
    "too_long",
    "not_utf8",
    "not_json",
    "not_an_object",
    "missing_key",
    "wrong_type",
    "out_of_range",
    "unsupported_version",
    "protected_process",
    "other_user",
    "outside_job",
    "identity_mismatch",
    "too_many",
    "unexpected_descriptor",
    "internal_error",
)
"""Every value of the ``reason`` label, known in advance so that each series starts at 0."""

DUMP_LABELS = (("py-spy", "ok"), ("pystack", "ok"), ("proc", "failed"))
"""Known values of the ``method`` and ``outcome`` labels of stack dumps: ``ok`` when there were
frames, ``failed`` when only the facts from /proc are known."""


class Histogram:
    """Counts by bucket; ``counts[i]`` is for ``bounds[i]``, not cumulative, the last is +Inf.

    ``exemplars[i]`` is the last traced value of bucket ``i``: its ``traceparent``, the value, and
    when it was (wall clock, seconds).
    """

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, tuple[str, float, float]] = {}

    def add(self, counts: list[int], total: float) -> None:
        """Count values that somebody else has sorted into the same buckets."""
        self.counts = [mine + more for mine, more in zip(self.counts, counts, strict=True)]
        self.total += total

    def observe(self, value: float, traceparent: str | None = None) -> None:
        """Count one value, as Prometheus does: a bound includes its own value.

        :param traceparent: of the span the value belongs to, as it arrived; read when scraped.
        """
        index = bisect_left(self.bounds, value)
        self.counts[index] += 1
        self.total += value
        if traceparent is not None:
            self.exemplars[index] = (traceparent, value, time.time())


class ScopeStatistics:
    """The counts of one scope (or of ``other``)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.acquires = 0
        self.releases = 0
        self.expirations = 0
        self.active = 0
        self.overdue = 0
        """Of the active ones, those whose deadline has passed: stuck now."""
        self.reaps = dict.fromkeys(Outcome, 0)
        self.durations = Histogram(DURATION_BUCKETS)
        self.ratios = Histogram(RATIO_BUCKETS)
        self.warm_up = Histogram(DURATION_BUCKETS)
        """Of the durations, each worker's first ones."""
        self.longest_warm_up = 0.0
        self.longest_steady = 0.0
        self.after_seconds = 0.0
        """The last deadline asked for."""

    def count(self, acquires: int, releases: int, active: int = 0, overdue: int = 0) -> None:
        """Count acquires and releases, and by how much the open timers have become more or less.

        :param overdue: of the ``active`` ones, those whose deadline has passed.
        """
        self.acquires += acquires
        self.releases += releases
        self.active += active
        self.overdue += overdue

    def took(self, elapsed: float, *, first: bool, traceparent: str | None) -> None:
        """Count the duration of a block that has ended; ``first`` for a worker's warm-up."""
        self.durations.observe(elapsed, traceparent)
        if first:
            self.warm_up.observe(elapsed)
            self.longest_warm_up = max(self.longest_warm_up, elapsed)
        elif elapsed > self.longest_steady:
            self.longest_steady = elapsed

    def took_at_most(self, warm_up: float, steady: float, after: float) -> None:
        """Note the longest durations that somebody else has counted, and the last deadline."""
        self.longest_warm_up = max(self.longest_warm_up, warm_up)
        self.longest_steady = max(self.longest_steady, steady)
        if after > 0:
            self.after_seconds = after

    def used(self, ratio: float, after: float, traceparent: str | None) -> None:
        """Count which share of its ``after`` seconds a block took since its last heartbeat."""
        self.after_seconds = after
        self.ratios.observe(ratio, traceparent)


class Statistics:
    """What one server counted since it was made.

    :param max_scopes: how many scopes are counted by name; later ones share ``other``, so that a
        worker that puts a step number into its scope names cannot grow the server without bound.
    """

    def __init__(self, max_scopes: int = 200) -> None:
        self._max_scopes = max_scopes
        self.collectors: list[Callable[[], None]] = []
        """Whoever counts elsewhere, to be added here by :meth:`collect`."""
        self.scopes: dict[str, ScopeStatistics] = {}
        self.requests = 0
        """Every valid request, whether or not it changed anything; and what boards have counted."""
        self.rejected = dict.fromkeys(REJECTION_REASONS, 0)
        self.lost_acquires = self.lost_releases = 0
        """How many are counted and nothing else is known of, no event and no duration."""
        self.hang_reports: dict[str, int] = {}
        """By verdict, for whoever makes reports."""
        self.stalls = 0
        """How often a job was found to stand still, for whoever watches for that."""
        self.is_stalled = False
        self.workers = 0
        self.lateness = Histogram(LATENESS_BUCKETS)
        self.dumps = {labels: Histogram(LATENESS_BUCKETS) for labels in DUMP_LABELS}
        """Times of stack dumps, in seconds, by (method, outcome)."""
        self.last_sweep = 0.0
        """Wall clock of the last time the watchdog checked its deadlines."""

    def collect(self) -> None:
        """Count what is only counted on demand. For whoever is about to read; from any thread."""
        for collector in self.collectors:
            collector()

    def requested(self, count: int) -> None:
        """Count valid requests."""
        self.requests += count

    def lost(self, acquires: int, releases: int) -> None:
        """Count what is known by its count alone."""
        self.lost_acquires += acquires
        self.lost_releases += releases

    def rejected_for(self, reason: str) -> None:
        """Count a request that was refused."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def watching(self, workers: int) -> None:
        """Set how many workers there are."""
        self.workers = workers

    def swept(self, timestamp: float) -> None:
        """Set when the watchdog last checked its deadlines (wall clock, seconds)."""
        self.last_sweep = timestamp

    def expired(self, scope_id: str, lateness: float, *, active: bool = True) -> None:
        """Count an expiry that was noticed ``lateness`` seconds after the deadline.

        :param active: whether the timer is one of its scope's ``active`` ones.
        """
        self.lateness.observe(lateness)
        scope = self.scope(scope_id)
        scope.expirations += 1
        scope.overdue += active

    def reaped(self, scope_id: str, outcome: Outcome) -> None:
        """Count how an attempt to end a worker came out, for the scope that it was stuck in."""
        self.scope(scope_id).reaps[outcome] += 1

    def reported(self, verdict: str) -> None:
        """Count a hang report by its verdict."""
        self.hang_reports[verdict] = self.hang_reports.get(verdict, 0) + 1

    def stalled(self) -> None:
        """Count that the job was found to stand still."""
        self.stalls += 1
        self.is_stalled = True

    def moves_again(self) -> None:
        """Note that the job stands still no longer."""
        self.is_stalled = False

    def dumped(
        self, method: str, *, ok: bool, seconds: float, traceparent: str | None = None
    ) -> None:
        """Count a stack dump by the method that worked and whether it gave any stack."""
        key = (method, "ok" if ok else "failed")
        if key not in self.dumps:
            self.dumps = {**self.dumps, key: Histogram(LATENESS_BUCKETS)}
        self.dumps[key].observe(seconds, traceparent)

    def recount(self, timers: Iterable[tuple[str, bool]]) -> None:
        """Count ``active`` and ``overdue`` anew.

        :param timers: the scope of each open timer, and whether it has expired.
        """
        for scope in self.scopes.values():
            scope.active = scope.overdue = 0
        for scope_id, expired in timers:
            scope = self.scope(scope_id)
            scope.active += 1
            scope.overdue += expired

    def scope(self, scope_id: str) -> ScopeStatistics:
        """Return the counts of ``scope_id``, or of ``other`` once there are too many names."""
        found = self.scopes.get(scope_id)
        if found is None:
            if len(self.scopes) >= self._max_scopes and scope_id != OTHER:
                return self.scope(OTHER)
            # Replaced as a whole, so that a reader never sees the dictionary change size.
            found = ScopeStatistics(scope_id)
            self.scopes = {**self.scopes, scope_id: found}
        return found
