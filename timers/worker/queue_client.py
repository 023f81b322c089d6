"""The worker's side of the pair over a :mod:`multiprocessing` queue."""

from __future__ import annotations

import os
import weakref
from typing import Any

from timers.linux import procfs

from .client import TimerClient, TimerRequest
from .on_error import ErrorPolicy
from .scopes import Deadline, calling, plain_deadline

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


class LocalTimerClient(TimerClient):
    """The worker's side of a multiprocessing queue.

    :param mp_queue: made by the server's process and handed to this one when it was started; any
        start method, ``Queue`` or ``SimpleQueue``.
    :param on_error: as for :class:`~timers.file_based_local_timer.FileTimerClient`; it matters
        for a closed or broken queue.

    Safe from several threads and across fork.
    """

    takes_deadlines = True

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
        deadline = expiration_time
        if not isinstance(deadline, Deadline):
            deadline = plain_deadline(scope_id, expiration_time)
        extras: dict[str, Any] = {
            "thread": deadline.thread,
            "after": deadline.after,
            "deadline_ns": deadline.deadline_ns,
        }
        special = deadline.special
        if special is not None:
            extras["nested"] = special.nested
            extras["leave"] = special.leave
            extras["error"] = special.error
            if special.warn_after is not None:
                extras["warn_after"] = special.warn_after
            if special.span is not None:
                extras["traceparent"] = special.span.traceparent
                extras["span_id"] = special.span.span_id
        self._put(scope_id, float(expiration_time), extras)

    def release(self, scope_id: str) -> None:
        """Stop the timer of ``scope_id`` of the calling thread; allowed when there is none."""
        thread, error = calling.release or (calling.native_id, None)
        self._put(scope_id, -1, {"thread": thread, "error": error})

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
