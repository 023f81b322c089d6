"""What the servers of the pipe and the socket share: requests that say which signal to send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timers.transport.wire import Message
from timers.worker.pipe_client import FileTimerRequest

from .server import WatchdogServer

if TYPE_CHECKING:
    from ._table import Timer
    from .workers import Worker

__all__ = ["FileRequestServer"]


class FileRequestServer(WatchdogServer):
    """A server whose requests are :class:`~timers.worker.pipe_client.FileTimerRequest`, torch's."""

    def _request(self, timer: Timer[Worker]) -> FileTimerRequest:
        return FileTimerRequest(
            timer.worker.pid, timer.scope_id, timer.expiration_time, timer.signal
        )

    def _message(self, request: Any) -> Message:
        return Message(
            request.worker_id, request.scope_id, request.expiration_time, int(request.signal)
        )
