"""What a server knows and says: its timers, its counts and its events, kept in agreement.

Everything that takes a timer out of the table, counts it or tells of it goes through here, so
that a scope's ``active`` is the number of its timers in the table whatever else happens.
"""

from __future__ import annotations

import contextlib
import heapq
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from timers.events import TimerInfo, TimerReleased, WorkerInfo
from timers.transport.wire import request_json

from ._table import Timer, TimerTable

if TYPE_CHECKING:
    from timers.clock import Clock
    from timers.events import Event, Observer

    from .statistics import ScopeStatistics, Statistics
    from .workers import Worker

__all__ = ["NS", "Ledger", "RunningTimer", "running", "timer_info", "torch_json"]

NS = 1_000_000_000


class RunningTimer(NamedTuple):
    """One open timer at one moment."""

    worker: WorkerInfo
    timer: TimerInfo
    age_seconds: float
    """Since its block was entered."""
    remaining_seconds: float
    """Until its deadline; negative once that has passed."""
    expired: bool
    """Whether the server has taken note of that."""


def timer_info(timer: Timer[Worker]) -> TimerInfo:
    """``timer`` as events tell of it."""
    return TimerInfo(
        scope_id=timer.scope_id,
        expiration_time=timer.expiration_time,
        after_seconds=(timer.deadline_ns - timer.acquired_ns) / NS,
        signal=timer.signal,
        thread=timer.thread,
        traceparent=timer.traceparent,
        span_id=timer.span_id,
    )


def running(timer: Timer[Worker], now_ns: int) -> RunningTimer:
    """``timer`` as it stands at ``now_ns``."""
    return RunningTimer(
        worker=timer.worker.info,
        timer=timer_info(timer),
        age_seconds=max(0, now_ns - timer.started_ns) / NS,
        remaining_seconds=(timer.deadline_ns - now_ns) / NS,
        expired=timer.expired,
    )


def torch_json(timer: Timer[Worker]) -> str:
    """``timer`` as torch's debug step is told of it."""
    return request_json(timer.worker.pid, timer.scope_id, timer.expiration_time, timer.signal)


class Ledger:
    """Timers, counts and events of one server.

    :param run_id: names the job in every event.
    :param statistics: counts what happens here.
    :param clock: where the time comes from.
    :param observer: who is told; may be replaced until the first event.
    :param max_timers: how many timers one worker may have.

    Whoever changes timers or counts holds :attr:`lock`; telling needs no lock and never raises.
    """

    def __init__(
        self,
        *,
        run_id: str,
        statistics: Statistics,
        clock: Clock,
        observer: Observer,
        max_timers: int,
    ) -> None:
        self.run_id = run_id
        self.statistics = statistics
        self.clock = clock
        self.observer = observer
        self.table: TimerTable[Worker] = TimerTable(max_timers)
        self.lock = threading.RLock()
        """Held while timers or workers change; never while waiting."""

    def emit(self, kind: type[Event], **fields: Any) -> None:
        """Tell the observer of an event that happens now."""
        with contextlib.suppress(Exception):  # telling cannot prevent doing
            self.observer.emit(kind(timestamp=self.clock.time(), run_id=self.run_id, **fields))

    def elapsed(self, timer: Timer[Worker]) -> float:
        """Seconds since the countdown of ``timer`` began."""
        return (self.clock.monotonic_ns() - timer.acquired_ns) / NS

    def ended(
        self, timer: Timer[Worker], scope: ScopeStatistics, now_ns: int, error: str | None
    ) -> None:
        """Count and tell that the block of ``timer`` was left."""
        acquired_ns, span = timer.acquired_ns, timer.span
        traceparent = None if span is None else span[0]
        elapsed_ns = now_ns - timer.started_ns
        elapsed = elapsed_ns / NS if elapsed_ns > 0 else 0.0  # its clock was read before ours
        first = timer.worker.is_warming_up(timer.scope_id)
        scope.took(elapsed, first=first, traceparent=traceparent)
        after_ns = timer.deadline_ns - acquired_ns
        if after_ns > 0:
            used_ns = now_ns - acquired_ns
            scope.used(used_ns / after_ns if used_ns > 0 else 0.0, after_ns / NS, traceparent)
        if self.observer.wants_requests:
            self.emit(
                TimerReleased,
                worker=timer.worker.info,
                timer=timer_info(timer),
                elapsed_seconds=elapsed,
                error=error,
            )

    def clear(self, worker: Worker) -> tuple[tuple[TimerInfo, float], ...]:
        """Drop every timer of ``worker``; return them with the seconds since their block began."""
        now_ns = self.clock.monotonic_ns()
        cleared = self.table.remove_worker(worker)
        for timer in cleared:
            scope = self.statistics.scope(timer.scope_id)
            scope.active -= 1
            scope.overdue -= timer.expired
        return tuple((timer_info(timer), (now_ns - timer.started_ns) / NS) for timer in cleared)

    def recount(self) -> None:
        """Make ``active`` and ``overdue`` of every scope what the table says they are."""
        for scope in self.statistics.scopes.values():
            scope.active = scope.overdue = 0
        for timer in self.table:
            scope = self.statistics.scope(timer.scope_id)
            scope.active += 1
            scope.overdue += timer.expired

    def running(self, limit: int | None = None) -> list[RunningTimer]:
        """The ``limit`` most urgent of the timers that run, or that expired and are still open."""
        with self.lock:  # only for the copy: the watchdog waits for it
            timers = list(self.table)
        now_ns = self.clock.monotonic_ns()
        most = len(timers) if limit is None else limit
        urgent = heapq.nsmallest(most, timers, key=lambda timer: timer.deadline_ns)
        return [running(timer, now_ns) for timer in urgent]
