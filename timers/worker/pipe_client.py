"""The worker's side of the pair over a named pipe, and the requests that cross it.

Speaks torch's wire format: torch's ``FileTimerServer`` understands this client.
"""

from __future__ import annotations

import os
import signal as signals
import weakref
from typing import Any, SupportsInt

from timers.transport.fifo_writer import FifoWriter
from timers.transport.wire import VERSION, request_json

from ._request_lines import RequestLines
from .client import TimerClient, TimerRequest, signal_number
from .on_error import ErrorPolicy

__all__ = ["FileTimerClient", "FileTimerRequest"]


class FileTimerRequest(TimerRequest):
    """One acquire or, with a negative ``expiration_time``, one release, as it crosses the pipe.

    :param worker_pid: the process that the timer is for.
    :param scope_id: names the block.
    :param expiration_time: wall-clock seconds since the epoch; negative for a release.
    :param signal: what to send to the worker on expiry; 0 or less only observes.
    """

    __slots__ = ["signal", "version"]
    __hash__ = None  # mutable and compared by value, as in torch

    def __init__(
        self, worker_pid: int, scope_id: str, expiration_time: float, signal: int = 0
    ) -> None:
        super().__init__(worker_id=worker_pid, scope_id=scope_id, expiration_time=expiration_time)
        self.version = VERSION
        self.signal = signal

    @property
    def worker_pid(self) -> int:
        """The process that the timer is for."""
        pid: int = self.worker_id
        return pid

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FileTimerRequest):
            return (
                super().__eq__(other)
                and self.version == other.version
                and self.signal == other.signal
            )
        return False

    def to_json(self) -> str:
        """The request as one line of the wire, without its newline."""
        return request_json(self.worker_pid, self.scope_id, self.expiration_time, self.signal)


class FileTimerClient(TimerClient):
    """The worker's side: each acquire and release is one atomic write into the pipe.

    :param file_path: of the pipe; the server creates it.
    :param signal: what the server sends to this worker on expiry, from 1 to 64; 0 or less means
        that an expiry is recorded (events, stack, counters) and nobody is killed.
    :param on_error: ``"raise"`` (the default, as in torch) makes :meth:`acquire` raise
        ``BrokenPipeError`` when no server listens; ``"warn"`` lets the block run unwatched, logs
        that once and counts it in :attr:`failures`. The environment's ``TIMERS_ON_ERROR`` is used
        when it is not given.
    :raises ValueError: for an impossible signal or ``on_error``.

    Safe from several threads and across fork, and picklable, so that it can be handed to a process
    when that is started. A full pipe is waited for, for at most a second; nothing is dropped then,
    and nothing raised, while the server lives. The wait blocks the thread, an event loop included.
    """

    takes_deadlines = True

    def __init__(
        self,
        file_path: str | os.PathLike[str],
        signal: SupportsInt = signals.SIGKILL,
        *,
        on_error: str | None = None,
    ) -> None:
        super().__init__()
        self.signal = signal
        self._file_path = os.fspath(file_path)
        self._errors = ErrorPolicy(on_error)
        self._writer = FifoWriter(self._file_path)
        self._reset()
        _clients.add(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset()  # what is cached names the process that it was pickled in
        _clients.add(self)

    def _reset(self) -> None:
        self._lines = RequestLines()

    @property
    def signal(self) -> SupportsInt:
        """What the server sends to this worker on expiry; may be set."""
        return self._signal

    @signal.setter
    def signal(self, signal: SupportsInt) -> None:
        self._number = signal_number("FileTimerClient", signal)
        self._signal = signal

    @property
    def failures(self) -> int:
        """How many requests were not delivered, with ``on_error="warn"``."""
        return self._errors.failures

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        """Start, or start again, the timer of ``scope_id`` for the calling thread.

        :param expiration_time: wall-clock seconds since the epoch.
        :raises BrokenPipeError: no server listens (unless ``on_error="warn"``).
        :raises RuntimeError: the scope is too long for one write (4096 bytes in all).
        """
        try:
            self._writer.send(self._lines.acquire_line(scope_id, expiration_time, self._number))
        except OSError as error:
            self._errors.failed(error)

    def release(self, scope_id: str) -> None:
        """Stop the timer of ``scope_id`` of the calling thread; allowed when there is none.

        :raises BrokenPipeError: no server listens (unless ``on_error="warn"``).
        """
        try:
            self._writer.send(self._lines.release_line(scope_id))
        except OSError as error:
            self._errors.failed(error)

    def _send(self, line: bytes) -> None:
        try:
            self._writer.send(line)
        except OSError as error:
            self._errors.failed(error)

    def _send_request(self, request: FileTimerRequest) -> None:
        """Send a request of one's own making, with torch's keys alone."""
        self._send(f"{request.to_json()}\n".encode())


_clients: weakref.WeakSet[FileTimerClient] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client._reset()  # noqa: SLF001  # this module's own; the prefixes name the parent


os.register_at_fork(after_in_child=_after_fork_in_child)
