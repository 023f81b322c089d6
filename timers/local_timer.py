"""The pair over a :mod:`multiprocessing` queue, for workers that the server's process started.

Which queue: ``mp.Queue`` writes from a feeder thread, so a worker that hangs holding the GIL right
after a ``put`` may never have sent it. ``mp.SimpleQueue`` writes at once and has no such gap. With
both, a worker killed by anybody in the middle of a ``put`` leaves the queue's lock held for all
the others; the pipe pair has no lock to leave.
"""

from __future__ import annotations

import os
import queue as queues
import signal as signals
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, cast

from . import procfs
from .api import RequestQueue, TimerClient, TimerRequest
from .on_error import ErrorPolicy
from .scopes import calling
from .server import WatchdogServer
from .wire import Message, Rejection, writable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .clock import Clock
    from .events import Observer
    from .reaper import BeforeKill, ReapPolicy

__all__ = ["LocalTimerClient", "LocalTimerServer", "MultiprocessingRequestQueue"]

_MIN_BATCH = 1000
"""How much to read at once from a queue that cannot tell its size: more than a pipe holds."""
_BLIND_WAIT_SECONDS = 1.0
"""How long to wait in a queue that gives no descriptor: until then a worker's exit goes unseen."""


class LocalTimerRequest(TimerRequest):
    """What our client puts into the queue: torch's request and what our server can use besides."""

    __slots__ = ["extras"]
    __hash__ = None  # as its base

    def __init__(
        self, worker_id: int, scope_id: str, expiration_time: float, extras: dict[str, Any]
    ) -> None:
        super().__init__(worker_id, scope_id, expiration_time)
        self.extras = extras


class LocalTimerClient(TimerClient):
    """The worker's side of a multiprocessing queue.

    :param mp_queue: made by the server's process and handed to this one when it was started; any
        start method, ``Queue`` or ``SimpleQueue``.
    :param on_error: as for :class:`~timers.file_based_local_timer.FileTimerClient`; it matters
        for a closed or broken queue.

    Safe from several threads and across fork.
    """

    def __init__(self, mp_queue: Any, *, on_error: str | None = None) -> None:
        super().__init__()
        self._mp_queue = mp_queue
        self._errors = ErrorPolicy(on_error)
        self._identity: tuple[int, int | None] = (0, None)
        _clients.add(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        _clients.add(self)

    @property
    def failures(self) -> int:
        """How many requests were not delivered, with ``on_error="warn"``."""
        return self._errors.failures

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        """Start, or start again, the timer of ``scope_id`` for the calling thread.

        :param expiration_time: wall-clock seconds since the epoch.
        """
        announced = calling.announcement
        if announced is not None and announced.expiration_time == expiration_time:
            extras = {
                "thread": announced.thread,
                "after": announced.after,
                "deadline_ns": announced.deadline_ns,
                "nested": announced.nested,
                "leave": announced.leave,
                "error": announced.error,
            }
            if announced.warn_after is not None:
                extras["warn_after"] = announced.warn_after
            if announced.span is not None:
                extras["traceparent"] = announced.span.traceparent
                extras["span_id"] = announced.span.span_id
        else:
            remaining = float(expiration_time) - time.time()
            extras = {
                "thread": threading.get_native_id(),
                "after": max(0.0, remaining),
                "deadline_ns": max(0, time.monotonic_ns() + int(remaining * 1e9)),
            }
        self._put(scope_id, expiration_time, extras)

    def release(self, scope_id: str) -> None:
        """Stop the timer of ``scope_id`` of the calling thread; allowed when there is none."""
        announced = calling.announcement
        if announced is not None and announced.expiration_time < 0:
            self._put(scope_id, -1, {"thread": announced.thread, "error": announced.error})
        else:
            self._put(scope_id, -1, {"thread": threading.get_native_id()})

    def _put(self, scope_id: str, expiration_time: float, extras: dict[str, Any]) -> None:
        pid = os.getpid()
        known, start_time = self._identity
        if known != pid:
            start_time = procfs.start_time(pid)
            self._identity = (pid, start_time)
        extras["start_time"] = start_time
        try:
            self._mp_queue.put(LocalTimerRequest(pid, scope_id, expiration_time, extras))
        except (OSError, ValueError) as error:  # ValueError: the queue is closed
            self._errors.failed(error)

    def _after_fork(self) -> None:
        # multiprocessing does this in processes that it forks itself. Without it a queue believes
        # in a feeder thread that exists in the parent only, and sends nothing.
        reset = getattr(self._mp_queue, "_after_fork", None)
        if reset is not None:
            reset()


_clients: weakref.WeakSet[LocalTimerClient] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client._after_fork()  # noqa: SLF001  # this module's own


os.register_at_fork(after_in_child=_after_fork_in_child)


class MultiprocessingRequestQueue(RequestQueue):
    """A :class:`~timers.api.RequestQueue` over ``mp.Queue``, ``mp.SimpleQueue`` or a lookalike.

    :param mp_queue: this object is its only consumer.
    """

    def __init__(self, mp_queue: Any) -> None:
        super().__init__()
        self._mp_queue = mp_queue

    def size(self) -> int:
        """How many requests wait; for a ``SimpleQueue``, which cannot tell, 1 for some."""
        if hasattr(self._mp_queue, "qsize"):
            return int(self._mp_queue.qsize())
        return int(not self._mp_queue.empty())

    def fileno(self) -> int | None:
        """A descriptor that is readable when something waits; None for a manager's queue."""
        reader = getattr(self._mp_queue, "_reader", None)
        return None if reader is None else int(reader.fileno())

    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        """Return up to ``size`` requests, waiting for them at most ``timeout`` seconds in all."""
        requests: list[TimerRequest] = []
        deadline = time.monotonic() + timeout
        while len(requests) < size:
            try:
                requests.append(self._get(deadline - time.monotonic()))
            except queues.Empty:
                break
        return requests

    def _get(self, timeout: float) -> TimerRequest:
        if hasattr(self._mp_queue, "get_nowait"):
            return cast("TimerRequest", self._mp_queue.get(timeout > 0, max(0.0, timeout)))
        # SimpleQueue can neither wait for a while nor refuse to wait.
        if not self._mp_queue._reader.poll(max(0.0, timeout)):  # noqa: SLF001  # see above
            raise queues.Empty
        return cast("TimerRequest", self._mp_queue.get())


class _QueueSource:
    """A multiprocessing queue as a source of the watchdog."""

    def __init__(self, queue: MultiprocessingRequestQueue) -> None:
        self._queue = queue
        self._fd = queue.fileno()

    def fileno(self) -> int | None:
        return self._fd

    def read(self, timeout: float) -> tuple[Sequence[Message], Sequence[Rejection]]:
        wait = 0.0 if self._fd is not None else min(timeout, _BLIND_WAIT_SECONDS)
        messages: list[Message] = []
        rejections: list[Rejection] = []
        for _ in range(max(_MIN_BATCH, self._queue.size())):
            try:
                requests = self._queue.get(1, wait)
            except Exception as error:  # noqa: BLE001  # unpickling runs anything
                rejections.append(Rejection("wrong_type", f"not a timer request: {error!r}"))
                continue
            if not requests:
                break
            wait = 0.0
            try:
                messages.append(_message(requests[0]))
            except (AttributeError, TypeError, ValueError, OverflowError) as error:
                rejections.append(Rejection("wrong_type", f"not a timer request: {error}"))
        return messages, rejections


def _message(request: Any) -> Message:
    """Check one object out of the queue; raises TypeError, ValueError or AttributeError."""
    pid, scope_id = request.worker_id, request.scope_id
    if type(pid) is not int or not isinstance(scope_id, str):
        raise TypeError(f"worker_id must be an integer and scope_id a string: {request!r}")
    expiration_time = float(request.expiration_time)
    if not expiration_time < 2**33:  # not a number, or later than anybody's calendar
        raise ValueError(f"expiration_time out of range: {request!r}")
    extras = getattr(request, "extras", {})
    return Message(pid, writable(scope_id), expiration_time, int(signals.SIGKILL), **extras)


class LocalTimerServer(WatchdogServer):
    """The server's side: watches the timers of its child processes, reaps stuck ones by SIGKILL.

    :param mp_queue: from which the requests come; this server is its only consumer.
    :param max_interval: seconds, more than 0: how often it wakes up when nothing happens. A reap
        does not wait for it: the server wakes up at each deadline.
    :param daemon: whether the watchdog thread lets the process exit.
    :param run_id: names the job in events and dumps.
    :param observer: is told of every event; by default the ``timers.events`` logger.
    :param before_kill: the step before a kill; by default
        :func:`~timers.debug_info_logging.log_debug_info_for_expired_timers`.
    :param policy: bounds of the reap, process tree, who may be reaped.
    :param clock: where the time comes from; for tests.
    :raises timers.errors.UnsupportedPlatformError: not on Linux.

    Differs from torch: takes the worker's stacks before it kills; reaps at the deadline instead of
    up to ``max_interval`` later; never reaps itself, an ancestor, another user's process or a
    recycled pid.
    """

    def __init__(
        self,
        mp_queue: Any,
        max_interval: float = 60,
        daemon: bool = True,
        *,
        run_id: str = "",
        observer: Observer | None = None,
        before_kill: BeforeKill | None = None,
        policy: ReapPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        queue = MultiprocessingRequestQueue(mp_queue)
        super().__init__(
            _QueueSource(queue),
            queue,
            address=f"{type(mp_queue).__module__}.{type(mp_queue).__name__}",
            max_interval=max_interval,
            daemon=daemon,
            run_id=run_id,
            observer=observer,
            before_kill=before_kill,
            policy=policy,
            clock=clock,
        )
