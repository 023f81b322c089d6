"""What the parts of one server share: its lock, clock, timers, counts and observer.

Whatever takes a timer out of the table goes through here, so that a scope's ``active`` is the
number of its timers in the table whatever else happens.
"""

from __future__ import annotations

import contextlib
import heapq
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from timers.events import TimerInfo, TimerReleased, WorkerInfo

from .boards.registry import Boards
from .table import Timer, TimerTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timers.clock import Clock
    from timers.events import Event, Observer

    from .statistics import ScopeStatistics, Statistics
    from .workers import Worker

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
    """Whether the server has noticed that."""


def timer_info(timer: Timer[Worker]) -> TimerInfo:
    """Return ``timer`` as events have it."""
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
    """Return ``timer`` as it stands at ``now_ns``."""
    return RunningTimer(
        worker=timer.worker.info,
        timer=timer_info(timer),
        age_seconds=max(0, now_ns - timer.started_ns) / NS,
        remaining_seconds=(timer.deadline_ns - now_ns) / NS,
        expired=timer.expired,
    )


Deadlines: TypeAlias = "TimerTable[Worker] | Boards"
"""Where open timers are kept: those that are sent as requests, and those on boards.

To be used under :attr:`State.lock`. After ``rebuild``, what is active and overdue in the table is
counted, and nothing else.
"""


class State:
    """What the parts of one server share; parameters as of its ``Watchdog``, and one more.

    :param max_timers: how many timers one worker may have, and how many of blocks around others.

    Whoever changes timers or counts holds :attr:`lock`; emitting needs no lock and never raises.
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
        self.max_timers = max_timers
        self.table: TimerTable[Worker] = TimerTable(max_timers)
        self.boards = Boards(clock, statistics, max_timers)
        self.deadlines: list[Deadlines] = [self.table, self.boards]
        """Everywhere that timers are kept."""
        self.lock = threading.RLock()
        """Held while timers or workers change; never while waiting."""

    def emit(self, kind: type[Event], **fields: Any) -> None:
        """Emit an event that happens now."""
        with contextlib.suppress(Exception):  # an observer that fails prevents nothing
            self.observer.emit(kind(timestamp=self.clock.time(), run_id=self.run_id, **fields))

    def emit_timer(self, kind: type[Event], timer: Timer[Worker], **fields: Any) -> None:
        """Emit an event about ``timer``, with the seconds since its countdown began."""
        elapsed_ns = self.clock.monotonic_ns() - timer.acquired_ns
        about: dict[str, Any] = {"elapsed_seconds": elapsed_ns / NS, **fields}
        self.emit(kind, worker=timer.worker.info, timer=timer_info(timer), **about)

    def timers(self) -> Iterator[Timer[Worker]]:
        """Return every open timer. To be used under :attr:`lock`."""
        for each in self.deadlines:
            yield from each

    def next_deadline(self) -> int | None:
        """Return the nanosecond at which a timer is due first; None when nothing runs."""
        found = [due for each in self.deadlines if (due := each.next_deadline()) is not None]
        return min(found, default=None)

    def block_ended(
        self, timer: Timer[Worker], scope: ScopeStatistics, now_ns: int, error: str | None
    ) -> None:
        """Count and report that the block of ``timer`` was left."""
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
            self.emit_timer(TimerReleased, timer, elapsed_seconds=elapsed, error=error)

    def clear(self, worker: Worker) -> tuple[tuple[TimerInfo, float], ...]:
        """Drop every timer of ``worker``; return them with the seconds since their block began."""
        now_ns = self.clock.monotonic_ns()
        cleared = [timer for each in self.deadlines for timer in each.remove_worker(worker)]
        worker.outers = 0
        for timer in cleared:
            self.statistics.scope(timer.scope_id).count(0, 0, -1, -timer.expired)
        return tuple((timer_info(timer), (now_ns - timer.started_ns) / NS) for timer in cleared)

    def running(self, limit: int | None = None) -> list[RunningTimer]:
        """Return the ``limit`` most urgent timers that are open, expired ones included."""
        with self.lock:  # only for the copy: the watchdog waits for it
            timers = list(self.timers())
        now_ns = self.clock.monotonic_ns()
        most = len(timers) if limit is None else limit
        urgent = heapq.nsmallest(most, timers, key=lambda timer: timer.deadline_ns)
        return [running(timer, now_ns) for timer in urgent]
