"""The worker's side of the pair over a :mod:`multiprocessing` queue."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from timers.linux import procfs
from timers.transport.receipt import OvertakenError, is_of_system

from ._client_slots import ClientWithSlots
from .client import TimerRequest
from .slots.messages import Channel, MessageSlot

if TYPE_CHECKING:
    from timers.transport.receipt import Receipt

    from ._on_error import ErrorPolicy
    from .slots.request import Request
    from .slots.slot import Slot

__all__ = ["LocalTimerClient", "LocalTimerRequest"]


class LocalTimerRequest(TimerRequest):
    """What our client puts into the queue: torch's request and what our server can use besides."""

    __slots__ = ["extras"]
    __hash__ = None  # as its base

    def __init__(
        self, worker_id: int, scope_id: str, expiration_time: float, extras: dict[str, Any]
    ) -> None:
        super().__init__(worker_id, scope_id, expiration_time)
        self.extras = extras


class LocalTimerClient(ClientWithSlots):
    """The worker's side of a multiprocessing queue.

    :param mp_queue: made by the server's process and handed to this one when it was started; any
        start method, ``Queue`` or ``SimpleQueue``, or a manager's.
    :param on_error: as for :class:`~timers.file_based_local_timer.FileTimerClient`; it matters
        for a closed or broken queue.

    Safe from several threads and across fork.
    """

    def __init__(self, mp_queue: Any, *, on_error: str | None = None) -> None:
        self._mp_queue = mp_queue
        super().__init__(on_error)

    def _reset(self) -> None:
        super()._reset()
        self._channel = _QueueChannel(self._mp_queue, self._errors)

    def _make_slot(self, scope: str, thread: int) -> Slot:
        return MessageSlot(self._channel, scope, thread)


class _QueueChannel(Channel):
    """Sends by putting into a queue."""

    def __init__(self, queue: Any, errors: ErrorPolicy) -> None:
        super().__init__(errors.failed)
        self._queue = queue
        self._identity: tuple[int, int | None] = (0, None)

    def write(self, request: Request, receipt: Receipt, totals: tuple[int, int]) -> None:
        pid = os.getpid()
        known, start_time = self._identity
        if known != pid:
            start_time = procfs.start_time(pid)
            self._identity = (pid, start_time)
        extras: dict[str, Any] = {
            "thread": request.thread,
            "error": request.error,
            "start_time": start_time,
        }
        if not request.is_release:
            extras["after"], extras["deadline_ns"] = request.after, request.deadline_ns
            extras["nested"], extras["leave"] = request.nested, request.leave
            if request.warn_after is not None:
                extras["warn_after"] = request.warn_after
            if request.span is not None:
                extras["traceparent"] = request.span.traceparent
                extras["span_id"] = request.span.span_id
        if request.missed is not None:
            extras["missed"] = request.missed
        found = LocalTimerRequest(pid, request.scope_id, request.expiration_time, extras)
        if receipt.sent is not receipt.before:  # one step from here
            raise OvertakenError
        try:
            # fmt: off
            receipt.sent = totals; _put(self._queue, found)  # noqa: E702  # one line: see .slot
        # fmt: on
        except BaseException as error:
            is_failure = isinstance(error, Exception) and self.is_failure(error)
            if isinstance(receipt, MessageSlot) and not is_failure:
                self.unsent[receipt] = None  # nobody knows whether it was put
            raise

    def is_failure(self, error: Exception) -> bool:
        # A queue that is closed, and whatever a manager's says when that is gone.
        return (
            is_of_system(error)
            or isinstance(error, EOFError | ValueError | ConnectionError)
            or type(error).__module__.startswith(("multiprocessing", "queue", "_queue"))
        )

    def wait_for_room(self, seconds: float) -> bool:
        del seconds  # a queue waits by itself
        return True

    def after_fork(self) -> None:
        super().after_fork()
        # multiprocessing does this in processes that it forks itself. Without it a queue believes
        # in a feeder thread that exists in the parent only, and sends nothing.
        reset = getattr(self._queue, "_after_fork", None)
        if reset is not None:
            reset()


def _put(queue: Any, message: LocalTimerRequest) -> None:
    """Put a message into a queue as its own ``put`` does, which an interrupt may leave locked.

    That takes its lock by a method of Python's, which may be interrupted when it has just been
    taken, and nobody gives it back then. ``with`` and a lock that is written in C cannot be; on one
    line, a debugger cannot either.
    """
    kind = type(queue)
    if kind.__module__ != "multiprocessing.queues" or kind.__name__ not in _KINDS:
        queue.put(message)
        return
    # fmt: off
    if kind.__name__ == "SimpleQueue":
        data = sys.modules[kind.__module__]._ForkingPickler.dumps(message)
        with queue._wlock._semlock: queue._writer.send_bytes(data)  # noqa: E701  # see above
    else:
        if queue._closed:
            raise ValueError(f"Queue {queue!r} is closed")
        queue._sem.acquire()
        with queue._notempty._lock: _append(queue, message)  # noqa: E701  # see above
    # fmt: on


def _append(queue: Any, message: LocalTimerRequest) -> None:
    if queue._thread is None:
        queue._start_thread()
    queue._buffer.append(message)
    queue._notempty.notify()


_KINDS = ("Queue", "SimpleQueue")
