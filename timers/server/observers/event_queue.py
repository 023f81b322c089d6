"""Hand events to code that may block, raise or never return, at no risk to whoever emits them.

A server emits events about a worker just before it kills it. :class:`Dispatcher` puts a
bounded queue and a daemon thread between the two: the server's side costs one short critical
section, and whatever the receiving callable does happens on the other side.

Decision: acquires and releases may fill a queue only up to nine tenths of its capacity. The rest
is kept for the rare events that explain a reap, which a flood of requests must not push out.

Decision: the lock is reentrant, because a signal handler or a finalizer that emits may interrupt
the very thread that holds it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING

from timers.events import TimerAcquired, TimerReleased
from timers.forks import reset_in_child

if TYPE_CHECKING:
    from collections.abc import Callable

    from timers.events import Event, Observer

__all__ = ["Dispatcher", "Observers"]

_logger = logging.getLogger(__name__)
_LOG_INTERVAL_SECONDS = 60.0
_REQUESTS = (TimerAcquired, TimerReleased)


class Dispatcher:
    """An :class:`~timers.events.Observer` that calls ``deliver`` from a thread of its own.

    :param deliver: called with each event, in order, never from two threads at once. It may block
        and may raise anything.
    :param name: what it is called in log messages and as the thread's name.
    :param capacity: how many events may wait, at least 1; further ones are dropped and counted.
    :param wants_requests: see :class:`~timers.events.Observer`.
    :param ignored: events that ``deliver`` has no use for: neither queued nor ever counted as
        dropped.
    :raises ValueError: for a ``capacity`` below 1.

    Safe from any thread and from signal handlers. After a fork the child's copy is empty, counts
    from 0 and starts its own thread when it is first used: the parent delivers what it had queued.
    The thread is started by the first event and is a daemon: it never keeps a process alive.
    """

    def __init__(
        self,
        deliver: Callable[[Event], None],
        *,
        name: str,
        capacity: int = 10_000,
        wants_requests: bool = False,
        ignored: tuple[type[Event], ...] = (),
    ) -> None:
        if capacity < 1:
            raise ValueError(
                f"the queue of {name!r} cannot hold {capacity} events: pass capacity >= 1"
            )
        self.name = name
        self.capacity = capacity
        self.wants_requests = wants_requests
        self._deliver = deliver
        self._ignored = ignored
        self._request_capacity = capacity - capacity // 10
        self._closed = False
        self.after_fork()
        reset_in_child(self)

    def after_fork(self) -> None:
        """Begin anew in a forked child: the parent delivers what was queued by then."""
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._progress = threading.Condition(self._lock)
        self._queue: deque[Event] = deque()
        self._held: deque[Dispatcher] = deque(maxlen=1)
        """This object itself, for its thread, while there is something to deliver."""
        self._thread: threading.Thread | None = None
        self._idle = False
        self._accepted = 0
        self._settled = 0
        """How many accepted events were delivered, or given up by ``close``."""
        self._stuck_at = -1
        self._stuck_seconds = 0.0
        self.dropped = 0
        """How many events were not delivered: queue full, already closed, or given up by close."""
        self.errors = 0
        """How often ``deliver`` raised."""
        self._last_logged = float("-inf")
        self._errors_logged = 0

    @property
    def pending(self) -> int:
        """How many events wait or are being delivered at this moment."""
        with self._lock:
            return self._accepted - self._settled

    def emit(self, event: Event) -> None:
        """Queue ``event``; drop and count it when there is no room. Never blocks, never raises."""
        if self._ignored and isinstance(event, self._ignored):
            return
        with self._lock:
            limit = self._request_capacity if isinstance(event, _REQUESTS) else self.capacity
            if self._closed or len(self._queue) >= limit:
                self.dropped += 1
                return
            self._queue.append(event)
            self._accepted += 1
            self._held.append(self)
            if self._idle:
                self._work.notify()
            elif self._thread is None:
                self._start()

    def flush(self, timeout: float) -> bool:
        """Wait until everything emitted so far is delivered; False when it is not in time.

        :param timeout: seconds, at most; below or at 0 it only looks. Time that earlier calls
            spent on the delivery that is still under way is taken off: a receiver that blocks
            for ever costs its callers the bound once, not once for each reap.
        """
        with self._lock:
            target = self._accepted
            if self._settled < target:
                # Both are for rare cases: no thread could be started for the last event, or a
                # finalizer emitted it on the delivering thread, just as that went to sleep.
                if self._thread is None:
                    self._start()
                self._work.notify()
            if self._thread is threading.current_thread():
                return self._settled >= target
            return self._wait_until(target, min(timeout, threading.TIMEOUT_MAX))

    def close(self, timeout: float) -> bool:
        """Deliver what is queued, for up to ``timeout`` seconds, then end the thread.

        What is still queued then is dropped and counted. A delivery under way cannot be
        interrupted; its thread ends when it returns. Later events are dropped and counted. May be
        called again, and returns whether everything was delivered.
        """
        deadline = time.monotonic() + min(timeout, threading.TIMEOUT_MAX)
        with self._lock:
            self._closed = True
        delivered = self.flush(timeout)
        with self._lock:
            given_up = len(self._queue)
            self._queue.clear()
            self.dropped += given_up
            self._settled += given_up
            self._work.notify_all()
            self._progress.notify_all()
            thread = self._thread
        if delivered and thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))
        return delivered

    def _wait_until(self, target: int, timeout: float) -> bool:
        since, at = time.monotonic(), self._settled
        deadline = since + timeout
        spent = self._stuck_seconds if self._stuck_at == at else 0.0
        while self._settled < target:
            now = time.monotonic()
            if self._settled != at:
                since, at, spent = now, self._settled, 0.0
            remaining = deadline - spent - now
            if not remaining > 0:  # NaN, too
                self._stuck_at, self._stuck_seconds = at, spent + (now - since)
                return False
            self._progress.wait(remaining)
        return True

    def _start(self) -> None:
        thread = threading.Thread(
            target=_deliver_all,
            args=(weakref.ref(self), self._held, self._work, self._queue),
            name=f"timers-{self.name}",
            daemon=True,
        )
        self._thread = thread
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            # No more threads for this user, or the interpreter is shutting down. The event stays
            # queued, and the next one tries again.
            self._thread = None

    def _wait_for(self, queue: deque[Event]) -> bool:
        """Return whether the thread of ``queue`` is to wait; called with the lock held."""
        self._idle = not self._closed and queue is self._queue
        return self._idle

    def _deliver_one(self, event: Event, queue: deque[Event]) -> bool:
        """Deliver ``event``; return whether the thread goes on."""
        error = self._call(event)
        with self._lock:
            if queue is not self._queue:
                return False  # Forked inside ``deliver``: the parent's queue is not the child's.
            self._settled += 1
            if error is not None:
                self.errors += 1
            self._progress.notify_all()
        if error is not None:
            self._log(error)
        return True

    def __del__(self) -> None:
        # One made for a server that was stopped and forgotten must not cost a thread.
        with contextlib.suppress(Exception), self._lock:
            self._work.notify_all()

    def _call(self, event: Event) -> BaseException | None:
        try:
            self._deliver(event)
        except BaseException as error:  # noqa: BLE001 - not even SystemExit may end the delivery
            return error
        return None

    def _log(self, error: BaseException) -> None:
        now = time.monotonic()
        if now - self._last_logged < _LOG_INTERVAL_SECONDS:
            return
        more = self.errors - self._errors_logged - 1
        self._last_logged, self._errors_logged = now, self.errors
        with contextlib.suppress(Exception):  # A logging handler is somebody else's code, too.
            _logger.error(
                "%r could not deliver an event: it is lost and counted, later ones are still tried"
                " (%d more errors since the last such message): %s",
                self.name,
                more,
                error or type(error).__name__,
                # A full disk is no bug, and its traceback would explain nothing.
                exc_info=None if isinstance(error, OSError) else error,
            )


def _deliver_all(
    reference: weakref.ref[Dispatcher],
    held: deque[Dispatcher],
    work: threading.Condition,
    queue: deque[Event],
) -> None:
    """Run the thread of a dispatcher, which lives only by others while there is nothing to do."""
    while True:
        with work:
            while not queue:
                held.clear()
                dispatcher = reference()
                if dispatcher is None or not dispatcher._wait_for(queue):  # noqa: SLF001  # a part of the class
                    return
                del dispatcher
                if reference() is None:  # nobody else held it any more
                    return
                work.wait()
            (dispatcher,) = held
            dispatcher._idle = False  # noqa: SLF001  # as above
            event = queue.popleft()
        if not dispatcher._deliver_one(event, queue):  # noqa: SLF001  # as above
            return
        del dispatcher, event


class Observers:
    """Several observers as one: each receives every event, whatever the others do.

    :param observers: in the order in which they are called. Wrap one that may block in a
        :class:`Dispatcher`.
    """

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    @property
    def wants_requests(self) -> bool:
        """Whether one of them wants every acquire and release."""
        return any(observer.wants_requests for observer in self._observers)

    def emit(self, event: Event) -> None:
        """Emit ``event`` to each one that wants it."""
        is_request = isinstance(event, _REQUESTS)
        for observer in self._observers:
            if not is_request or observer.wants_requests:
                with contextlib.suppress(Exception):
                    observer.emit(event)

    def flush(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds in all; False when one did not deliver everything.

        All deliver at the same time, so those that are asked later lose nothing by waiting.
        """
        deadline = time.monotonic() + timeout
        done = True
        for observer in self._observers:
            with contextlib.suppress(Exception):
                done = observer.flush(max(0.0, deadline - time.monotonic())) and done
                continue
            done = False
        return done
