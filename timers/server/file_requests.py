"""What the servers of the pipe and the socket share: torch's requests, and its ``log_event``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from timers.events import Event, TimerExpired, WatchdogStarted, WatchdogStopped, WorkerKilled
from timers.transport.wire import Message
from timers.worker.pipe_client import FileTimerRequest

from .observers.event_queue import Dispatcher, Observers
from .server import WatchdogServer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from timers.events import Observer
    from timers.transport.source import OwnedSource

    from .table import Timer
    from .workers import Worker

    LogEvent = Callable[[str, FileTimerRequest | None], None]

__all__ = ["FileRequestServer"]


class FileRequestServer(WatchdogServer):
    """A server whose requests are :class:`~timers.worker.pipe_client.FileTimerRequest`, torch's.

    :param log_event: as of :class:`~timers.file_based_local_timer.FileTimerServer`; it is called
        from a thread of its own.
    :param options: further ones of :class:`~timers.server.server.WatchdogServer`.
    """

    def __init__(
        self,
        sources: Sequence[OwnedSource],
        *,
        log_event: LogEvent | None,
        observer: Observer | None,
        **options: Any,
    ) -> None:
        if log_event is not None:
            calls = Dispatcher(partial(_call_back, log_event), name="log_event")
            observer = calls if observer is None else Observers(observer, calls)
        super().__init__(sources, observer=observer, **options)

    def _request(self, timer: Timer[Worker]) -> FileTimerRequest:
        return FileTimerRequest(
            timer.worker.pid, timer.scope_id, timer.expiration_time, timer.signal
        )

    def _message(self, request: Any) -> Message:
        return Message(
            request.worker_id, request.scope_id, request.expiration_time, int(request.signal)
        )


def _call_back(log_event: LogEvent, event: Event) -> None:
    """Call ``log_event`` if ``event`` is one of the four that torch has."""
    if isinstance(event, WatchdogStarted | WatchdogStopped):
        log_event(event.name, None)
    elif isinstance(event, TimerExpired | WorkerKilled):
        pid, timer = int(event.worker.pid), event.timer
        request = FileTimerRequest(pid, timer.scope_id, timer.expiration_time, timer.signal)
        log_event(event.name, request)
