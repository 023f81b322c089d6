"""The contract between workers and servers, and the base classes for a pair of one's own.

The names, arguments and rules are those of ``torch.distributed.elastic.timer.api`` (torch 2.13):
a client and a server written against that module run against this one unchanged.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .events import Event, Observer, Outcome, WatchdogStarted, WatchdogStopped, WorkerInfo
from .server.observers.logging_observer import log_events
from .server.observers.request_events import expired_event, reaped_event
from .server.statistics import Statistics
from .transport.source import RequestQueue
from .worker.client import TimerClient, TimerRequest
from .worker.scopes import configure, expires

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "RequestQueue",
    "TimerClient",
    "TimerRequest",
    "TimerServer",
    "configure",
    "expires",
]

_logger = logging.getLogger(__name__)
_ERROR_PAUSE_SECONDS = 0.1
"""A loop that fails must neither end nor spin."""


class _Retry(NamedTuple):
    """A worker whose reap failed and is tried again."""

    attempts: int
    reported: frozenset[tuple[str, float]]
    """Scope and expiration time of its timers whose expiry has been reported."""


_FIRST_TRY = _Retry(0, frozenset())


class TimerServer(abc.ABC):
    """Watches timers and reaps workers whose timers expire; the base for a server of one's own.

    A subclass says how requests are kept (:meth:`register_timers`, :meth:`clear_timers`,
    :meth:`get_expired_timers`) and how a worker is ended (:meth:`_reap_worker`); this class calls
    them from one thread, at least every ``max_interval`` seconds. Expirations and reaps are
    counted in :attr:`statistics` and emitted to :attr:`observer`.

    :param request_queue: where requests come from; None in a subclass with a loop of its own.
    :param max_interval: seconds, at most, to wait for one request. In a subclass of somebody's own
        a reap is late by up to this much; our own servers wake up at the deadline itself.
    :param daemon: whether the watchdog thread lets the process exit.
    """

    run_id = ""
    """What names the job in events; a subclass may set it."""

    def __init__(
        self, request_queue: RequestQueue | None, max_interval: float, daemon: bool = True
    ) -> None:
        super().__init__()
        self._request_queue = request_queue
        self._max_interval = max_interval
        self._daemon = daemon
        self._watchdog_thread: threading.Thread | None = None
        self._stop_signaled = False
        self._reap_retries: dict[Any, _Retry] = {}
        self.observer = None
        self._statistics = Statistics()

    @property
    def observer(self) -> Observer | None:
        """What receives the events; with None, the ``timers.events`` logger does.

        To be set before :meth:`start`.
        """
        return self._observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._observer = observer
        self._receive_with(log_events() if observer is None else observer)

    def _receive_with(self, observer: Observer) -> None:
        self._receiver = observer

    @property
    def statistics(self) -> Statistics:
        """Exact counts of what this server did; any thread may read them."""
        self._statistics.collect()
        return self._statistics

    @abc.abstractmethod
    def register_timers(self, timer_requests: list[Any]) -> None:
        """Apply acquires and releases (a release has a negative ``expiration_time``)."""

    @abc.abstractmethod
    def clear_timers(self, worker_ids: set[Any]) -> None:
        """Forget every timer of these workers."""

    @abc.abstractmethod
    def get_expired_timers(self, deadline: float) -> dict[Any, list[Any]]:
        """Return the timers with an ``expiration_time`` of ``deadline`` or earlier, by worker."""

    @abc.abstractmethod
    def _reap_worker(self, worker_id: Any) -> bool:
        """End a worker; False when it is still there and has to be reaped again.

        What it raises is logged, and the worker counts as reaped.
        """

    def _reap(self, worker_id: Any) -> Outcome:
        try:
            return Outcome.KILLED if self._reap_worker(worker_id) else Outcome.STILL_ALIVE
        except Exception:
            _logger.exception(
                "_reap_worker raised for worker %s, which counts as reaped; "
                "it should return False for a worker that is still there",
                worker_id,
            )
            return Outcome.ERROR

    def _watchdog_loop(self) -> None:
        while not self._is_ending():
            try:
                self._run_watchdog()
            except Exception:
                _logger.exception("error in the watchdog of %s; it goes on", type(self).__name__)
                time.sleep(_ERROR_PAUSE_SECONDS)

    def _is_ending(self) -> bool:
        return self._stop_signaled

    def _run_watchdog(self) -> None:
        """Do one round: apply requests, reap what has expired."""
        if self._request_queue is None:
            raise TypeError(f"{type(self).__name__} has no request queue to take requests from")
        batch_size = max(1, self._request_queue.size())
        requests = self._request_queue.get(batch_size, self._max_interval)
        for request in requests:
            is_release = request.expiration_time < 0
            self.statistics.scope(str(request.scope_id)).count(not is_release, is_release)
        self.statistics.requested(len(requests))
        self.register_timers(requests)
        now = time.time()
        self.statistics.swept(now)
        reaped = set()
        retries: dict[Any, _Retry] = {}
        for worker_id, timers in self.get_expired_timers(now).items():
            before = self._reap_retries.get(worker_id, _FIRST_TRY)
            worker = WorkerInfo(pid=worker_id if isinstance(worker_id, int) else str(worker_id))
            keys = [(timer.scope_id, timer.expiration_time) for timer in timers]
            for key, timer in zip(keys, timers, strict=True):
                if key not in before.reported:
                    self._emit(expired_event(self.statistics, self.run_id, worker, timer))
            with contextlib.suppress(Exception):
                self._receiver.flush(1.0)
            outcome = self._reap(worker_id)
            if timers:
                retry = (before.attempts + 1, self._max_interval)
                about = (self.statistics, self.run_id, worker, timers[0])
                self._emit(reaped_event(*about, held=timers, outcome=outcome, retry=retry))
            if outcome.failed:
                _logger.error("worker %s is still there; its reap is tried again", worker_id)
                retries[worker_id] = _Retry(before.attempts + 1, frozenset(keys))
            else:
                reaped.add(worker_id)
        self._reap_retries = retries
        self.clear_timers(reaped)

    def _emit(self, event: Event) -> None:
        with contextlib.suppress(Exception):  # an observer that fails prevents nothing
            self._receiver.emit(event)

    def _get_scopes(self, timer_requests: Iterable[Any]) -> list[str]:
        return [request.scope_id for request in timer_requests]

    def start(self) -> None:
        """Start the watchdog thread; does nothing when it runs."""
        if self._watchdog_thread is not None:
            _logger.info("%s runs already", type(self).__name__)
            return
        _logger.info("starting %s, max_interval=%s", type(self).__name__, self._max_interval)
        self._watchdog_thread = threading.Thread(
            target=self._watchdog_loop, name=type(self).__name__, daemon=self._daemon
        )
        self._watchdog_thread.start()
        self._emit(
            WatchdogStarted(
                timestamp=time.time(),
                run_id=self.run_id,
                max_interval_seconds=self._max_interval,
            )
        )

    def stop(self) -> None:
        """End the watchdog thread, waiting for it at most ``max_interval`` seconds."""
        _logger.info("stopping %s", type(self).__name__)
        self._stop_signaled = True
        if self._watchdog_thread is not None:
            self._watchdog_thread.join(self._max_interval)
            self._watchdog_thread = None
        self._emit(WatchdogStopped(timestamp=time.time(), run_id=self.run_id))
        with contextlib.suppress(Exception):
            self._receiver.flush(1.0)
