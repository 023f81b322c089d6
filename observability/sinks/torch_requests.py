"""Events and counts from the ``log_event`` callback of torch's ``FileTimerServer``.

The callback is given a name and, for a timer, the request that made it: an object with
``worker_pid``, ``scope_id``, ``expiration_time`` and ``signal``. torch need not be installed.
What the callback does not say (how long the timer was for, how long the scope ran, whether the
kill succeeded) is not made up: durations are NaN, which no log line and no histogram shows.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

from timers.events import (
    Outcome,
    TimerExpired,
    TimerInfo,
    WatchdogStarted,
    WatchdogStopped,
    WorkerInfo,
    WorkerKilled,
)
from timers.server.statistics import Statistics
from timers.server.workers import worker_info

if TYPE_CHECKING:
    from timers.events import Event

__all__ = ["RequestEvents"]


class RequestEvents:
    """Makes our events of torch's and counts them. Safe from several servers' threads."""

    def __init__(self, run_id: str = "") -> None:
        self.statistics = Statistics()
        self._run_id = run_id
        self._lock = threading.Lock()
        self._worker: WorkerInfo | None = None
        """The last one that expired: when its kill is reported, it can no longer be asked."""

    def event(self, name: str, request: Any | None) -> Event | None:
        """Count it and return our event for it; None for a name that is not torch's.

        :raises AttributeError: the request lacks one of the four attributes.
        """
        now = time.time()
        if name == WatchdogStarted.name:
            return WatchdogStarted(timestamp=now, run_id=self._run_id)
        if name == WatchdogStopped.name:
            return WatchdogStopped(timestamp=now, run_id=self._run_id)
        if name not in (TimerExpired.name, WorkerKilled.name) or request is None:
            return None
        timer = TimerInfo(
            scope_id=str(request.scope_id),
            expiration_time=float(request.expiration_time),
            after_seconds=math.nan,
            signal=int(request.signal),
        )
        with self._lock:
            if name == TimerExpired.name:
                self._worker = _worker_info(request.worker_pid)
                return self._expired(now, self._worker, timer)
            if self._worker is None or self._worker.pid != request.worker_pid:
                self._worker = _worker_info(request.worker_pid)
            return self._killed(now, self._worker, timer)

    def _expired(self, now: float, worker: WorkerInfo, timer: TimerInfo) -> TimerExpired:
        lateness = max(0.0, now - timer.expiration_time)
        self.statistics.scope(timer.scope_id).expirations += 1
        self.statistics.lateness.observe(lateness)
        return TimerExpired(
            timestamp=now,
            run_id=self._run_id,
            worker=worker,
            timer=timer,
            elapsed_seconds=math.nan,
            lateness_seconds=lateness,
        )

    def _killed(self, now: float, worker: WorkerInfo, timer: TimerInfo) -> WorkerKilled:
        # torch reports a kill when the signal went out, or when the process was gone already.
        self.statistics.scope(timer.scope_id).reaps[Outcome.KILLED] += 1
        return WorkerKilled(
            timestamp=now,
            run_id=self._run_id,
            worker=worker,
            timer=timer,
            elapsed_seconds=math.nan,
            signal=timer.signal,
            outcome=Outcome.KILLED,
        )


def _worker_info(pid: Any) -> WorkerInfo:
    return worker_info(pid, None) if isinstance(pid, int) else WorkerInfo(pid=str(pid))
