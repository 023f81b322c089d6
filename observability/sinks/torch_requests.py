"""Events and counts from the ``log_event`` callback of torch's ``FileTimerServer``.

The callback is given a name and, for a timer, the request that made it: an object with
``worker_pid``, ``scope_id``, ``expiration_time`` and ``signal``. torch need not be installed.
What the callback does not say is not made up: see :mod:`timers.server.observers.request_events`.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from timers.events import TimerExpired, WatchdogStarted, WatchdogStopped, WorkerInfo, WorkerKilled
from timers.server.observers.request_events import expired_event, reaped_event
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
        """The last one that expired: when its kill is reported, it can no longer be read about."""

    def event(self, name: str, request: Any | None) -> Event | None:
        """Count it and return our event for it; None for a name that is not torch's.

        :raises AttributeError: the request lacks one of the four attributes.
        """
        if name in (WatchdogStarted.name, WatchdogStopped.name):
            kind = WatchdogStarted if name == WatchdogStarted.name else WatchdogStopped
            return kind(timestamp=time.time(), run_id=self._run_id)
        if name not in (TimerExpired.name, WorkerKilled.name) or request is None:
            return None
        pid, signal, expired = request.worker_pid, int(request.signal), name == TimerExpired.name
        with self._lock:
            if expired or self._worker is None or self._worker.pid != pid:
                known = isinstance(pid, int)
                self._worker = worker_info(pid, None) if known else WorkerInfo(pid=str(pid))
            about = (self.statistics, self._run_id, self._worker)
            if expired:
                return expired_event(*about, request, signal)
            # torch reports a kill when the signal went out, or when the process was gone already.
            return reaped_event(*about, request, signal)
