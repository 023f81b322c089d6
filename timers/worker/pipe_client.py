"""The worker's side of the pair over a named pipe, and the requests that cross it.

Speaks torch's wire format: torch's ``FileTimerServer`` understands this client.
"""

from __future__ import annotations

import os
import signal as signals
import time
from typing import TYPE_CHECKING, SupportsInt

from timers.transport.fifo_writer import FifoWriter
from timers.transport.wire import VERSION, request_json

from ._client_slots import ClientWithSlots
from ._lines import Lines
from .client import TimerRequest, signal_number
from .slots.messages import Channel, MessageSlot

if TYPE_CHECKING:
    from timers.transport.receipt import Receipt

    from ._on_error import ErrorPolicy
    from .slots.request import Request
    from .slots.slot import Slot

__all__ = ["FileTimerClient", "FileTimerRequest"]

_SLICE_SECONDS = 0.01


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


class FileTimerClient(ClientWithSlots):
    """The worker's side: each acquire and release is one atomic write into the pipe.

    :param file_path: of the pipe; the server creates it.
    :param signal: what the server sends to this worker on expiry, from 1 to 64; 0 or less means
        that an expiry is recorded (events, stack, counters) and nobody is killed.
    :param on_error: ``"raise"`` (the default, as in torch) makes :meth:`acquire` raise
        ``BrokenPipeError`` when no server listens; ``"warn"`` lets the block run unwatched, logs
        that once and counts it in :attr:`failures`. The environment's ``TIMERS_ON_ERROR`` is used
        when it is not given.
    :raises ValueError: for an impossible signal or ``on_error``.

    Safe from several threads, signal handlers and finalizers, and across fork; picklable, so that
    it can be handed to a process when that is started. A full pipe is waited for, for at most a
    second; nothing is lost then, and nothing raised, while the server lives: what there was no room
    for is sent later, by how things stand then. The wait blocks the thread, an event loop included.
    """

    def __init__(
        self,
        file_path: str | os.PathLike[str],
        signal: SupportsInt = signals.SIGKILL,
        *,
        on_error: str | None = None,
    ) -> None:
        self._signal = signal
        self._number = signal_number("FileTimerClient", signal)
        self._file_path = os.fspath(file_path)
        super().__init__(on_error)

    def _reset(self) -> None:
        super()._reset()
        self._channel = _PipeChannel(self._file_path, Lines(self._number), self._errors)

    @property
    def signal(self) -> SupportsInt:
        """What the server sends to this worker on expiry; may be set."""
        return self._signal

    @signal.setter
    def signal(self, signal: SupportsInt) -> None:
        self._number = self._channel.lines.signal = signal_number("FileTimerClient", signal)
        self._signal = signal

    def prepare(self) -> None:
        """Start the thread that sends what there was no room for, while a thread can be had."""
        self._channel.prepare()

    def _make_slot(self, scope: str, thread: int) -> Slot:
        self._channel.lines.check(thread, scope)
        return MessageSlot(self._channel, scope, thread)

    def _send_request(self, request: FileTimerRequest) -> None:
        """Send a request of one's own making, with torch's keys alone."""
        self._channel.write_line(f"{request.to_json()}\n".encode())


class _PipeChannel(Channel):
    """Sends over a named pipe."""

    def __init__(self, path: str, lines: Lines, errors: ErrorPolicy) -> None:
        super().__init__(errors.failed)
        self.lines = lines
        self.writer = FifoWriter(path)

    def write(self, request: Request, receipt: Receipt, totals: tuple[int, int]) -> None:
        self.writer.write(self.lines.encode(request), receipt, totals)
        self.raw = self.writer.raw

    def write_line(self, line: bytes) -> None:
        """Send a line of somebody else's; waits as long as for any other."""
        give_up = time.monotonic() + self._full_timeout
        while True:
            try:
                self.writer.write(line)
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise
                self.writer.wait_for_room(_SLICE_SECONDS)
            except OSError as error:
                self.fail(error)
                return
            else:
                return

    def acquire_line(
        self, slot: MessageSlot, after: float, wall_ns: int, deadline_ns: int
    ) -> bytes:
        self._check()
        return self.lines.acquire(slot.thread, slot.scope, after, wall_ns, deadline_ns)

    def release_line(self, slot: MessageSlot) -> bytes:
        self._check()
        return self.lines.release(slot.thread, slot.scope)

    def _check(self) -> None:
        if not self.writer.check():
            self.raw = None

    def wait_for_room(self, seconds: float) -> bool:
        return self.writer.wait_for_room(seconds)

    def after_fork(self) -> None:
        super().after_fork()
        self.raw = None
        self.lines = Lines(self.lines.signal)
