"""The pair over a named pipe, for workers that did not inherit anything from the server.

Speaks torch's wire format both ways: torch's ``FileTimerClient`` can talk to this server, and this
client to torch's ``FileTimerServer``.
"""

from __future__ import annotations

import os
import signal as signals
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsInt

from .api import TimerClient, TimerRequest
from .debug_info_logging import log_debug_info_for_expired_timers
from .fifo import FifoReader, FifoWriter
from .log_event import LogEvent, both
from .on_error import ErrorPolicy
from .request_lines import RequestLines
from .server import WatchdogServer
from .sources import Sources
from .wire import MAX_LINE_BYTES, VERSION, Decoder, Message, Rejection, bounded, request_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .clock import Clock
    from .events import Observer
    from .reaper import BeforeKill, ReapPolicy
    from .sources import OwnedSource
    from .table import Timer
    from .workers import Worker

__all__ = ["FileTimerClient", "FileTimerRequest", "FileTimerServer"]


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
        self._number = int(signal)
        if not -64 <= self._number <= 64:  # noqa: PLR2004  # signal(7)
            raise ValueError(f"FileTimerClient(signal={signal!r}): signals go up to 64")
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
        self._send(self._lines.acquire_line(scope_id, expiration_time, self._number))

    def release(self, scope_id: str) -> None:
        """Stop the timer of ``scope_id`` of the calling thread; allowed when there is none.

        :raises BrokenPipeError: no server listens (unless ``on_error="warn"``).
        """
        self._send(self._lines.release_line(scope_id))

    def _send(self, line: bytes) -> None:
        if len(line) > MAX_LINE_BYTES:
            bounded(line)  # raises, with the reason
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


class _FifoSource:
    """The pipe as a source of the watchdog."""

    def __init__(self, reader: FifoReader) -> None:
        self._reader = reader
        self._decoder = Decoder()

    def fileno(self) -> int:
        return self._reader.fileno()

    def read(self, timeout: float) -> tuple[Sequence[Message], Sequence[Rejection]]:
        del timeout  # never waits: it has a descriptor to wait on
        return self._decoder.feed(self._reader.read())


class FileTimerServer(WatchdogServer):
    """The server's side: creates the pipe, watches the timers, reaps stuck workers.

    :param file_path: of the pipe to create. A pipe that a dead server left is taken over.
    :param run_id: names the job in events and dumps.
    :param max_interval: seconds, more than 0: how often it wakes up when nothing happens. A reap
        does not wait for it: the server wakes up at each deadline.
    :param daemon: whether the watchdog thread lets the process exit.
    :param log_event: ``log_event(name, request)`` is told of ``watchdog started``, ``watchdog
        stopped`` (both with None), ``timer expired`` and ``kill worker process``, on a thread of
        its own: it may block or raise without consequence.
    :param observer: is told of every event; see :mod:`timers.events`. By default, and when there
        is no ``log_event`` either, the ``timers.events`` logger.
    :param before_kill: the step before a kill, called as torch calls
        ``log_debug_info_for_expired_timers``, which is the default.
    :param policy: bounds of the reap, escalation, process tree, who may be reaped.
    :param clock: where the time comes from; for tests.
    :param also: further sources, such as :func:`timers.socket_timer.socket_source`, whose workers
        are watched by this server as well; they are closed with it.
    :raises timers.errors.ServerRunningError: a live server reads from the path.
    :raises timers.errors.PathOccupiedError: something that is not a pipe of this user is there.
    :raises timers.errors.UnsupportedPlatformError: not on Linux.

    Differs from torch: never signals its own process or an ancestor; reaps at the deadline instead
    of up to ``max_interval`` later; refuses to delete what is at the path; a bad line costs that
    line. Constructed in the parent of its workers, it closes itself in forked children.
    """

    def __init__(
        self,
        file_path: str | os.PathLike[str],
        run_id: str = "",
        max_interval: float = 10,
        daemon: bool = True,
        log_event: Callable[[str, FileTimerRequest | None], None] | None = None,
        *,
        observer: Observer | None = None,
        before_kill: BeforeKill | None = None,
        policy: ReapPolicy | None = None,
        clock: Clock | None = None,
        also: Sequence[OwnedSource] = (),
    ) -> None:
        self._file_path = os.fspath(file_path)
        if log_event is not None:
            observer = both(observer, LogEvent(log_event, FileTimerRequest))
        self._reader = FifoReader(self._file_path)
        fifo = _FifoSource(self._reader)
        self._sources = Sources(fifo, *also) if also else None
        self._also = also
        try:
            super().__init__(
                self._sources or fifo,
                address=self._file_path,
                max_interval=max_interval,
                daemon=daemon,
                run_id=run_id,
                observer=observer,
                before_kill=before_kill,
                policy=policy,
                clock=clock,
            )
        except BaseException:
            self._close_sources()
            raise

    def _request(self, timer: Timer[Worker]) -> FileTimerRequest:
        return FileTimerRequest(
            timer.worker.pid, timer.scope_id, timer.expiration_time, timer.signal
        )

    def _message(self, request: Any) -> Message:
        return Message(
            request.worker_id, request.scope_id, request.expiration_time, int(request.signal)
        )

    def clear_timers(self, worker_pids: set[int]) -> None:
        """Forget every timer of these pids. Safe from any thread."""
        super().clear_timers(worker_pids)  # overridden for the argument's name, which is torch's

    def _default_before_kill(self) -> BeforeKill:
        # The same as the base class's, by the name of this module: torch's users replace that one.
        return partial(log_debug_info_for_expired_timers, timeout=self._policy.dump_timeout)

    def _close(self) -> None:
        super()._close()
        self._close_sources()

    def _close_sources(self) -> None:
        if self._sources is not None:
            self._sources.close()
        self._reader.close()
        for source in self._also:
            source.close()
