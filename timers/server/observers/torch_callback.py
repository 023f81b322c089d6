"""torch's ``log_event`` callback, ``(name, request or None)``, as an observer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timers.events import Event, TimerExpired, WatchdogStarted, WatchdogStopped, WorkerKilled

from .event_queue import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LogEvent"]


class LogEvent(Dispatcher):
    """Calls ``log_event`` with torch's four events, from a thread of its own.

    :param log_event: what torch's ``FileTimerServer`` takes under that name.
    :param request: makes torch's request object from (pid, scope, expiration time, signal).
    """

    def __init__(
        self, log_event: Callable[[str, Any], None], request: Callable[[int, str, float, int], Any]
    ) -> None:
        self._log_event = log_event
        self._request = request
        super().__init__(self._call_back, name="log_event")

    def _call_back(self, event: Event) -> None:
        if isinstance(event, WatchdogStarted | WatchdogStopped):
            self._log_event(event.name, None)
        elif isinstance(event, TimerExpired | WorkerKilled):
            timer = event.timer
            request = self._request(
                int(event.worker.pid), timer.scope_id, timer.expiration_time, timer.signal
            )
            self._log_event(event.name, request)
