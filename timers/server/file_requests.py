"""What the servers of the pipe and the socket share: requests that say which signal to send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timers.transport.wire import Message
from timers.worker.pipe_client import FileTimerRequest

from .observers.event_queue import Observers
from .observers.torch_callback import LogEvent
from .server import WatchdogServer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from timers.events import Observer
    from timers.transport.source import OwnedSource

    from .table import Timer
    from .workers import Worker

__all__ = ["FileRequestServer"]


class FileRequestServer(WatchdogServer):
    """A server whose requests are :class:`~timers.worker.pipe_client.FileTimerRequest`, torch's.

    :param log_event: as of :class:`~timers.file_based_local_timer.FileTimerServer`.
    :param options: further ones of :class:`~timers.server.server.WatchdogServer`.
    """

    def __init__(
        self,
        sources: Sequence[OwnedSource],
        *,
        log_event: Callable[[str, FileTimerRequest | None], None] | None,
        observer: Observer | None,
        **options: Any,
    ) -> None:
        if log_event is not None:
            called = LogEvent(log_event, FileTimerRequest)
            observer = called if observer is None else Observers(observer, called)
        super().__init__(sources, observer=observer, **options)

    def _request(self, timer: Timer[Worker]) -> FileTimerRequest:
        return FileTimerRequest(
            timer.worker.pid, timer.scope_id, timer.expiration_time, timer.signal
        )

    def _message(self, request: Any) -> Message:
        return Message(
            request.worker_id, request.scope_id, request.expiration_time, int(request.signal)
        )
