"""Events from servers to sinks: bounded, isolated, counted.

A sink is a callable that takes one :class:`~timers.events.Event` and has a ``name``. It may also
have: ``wants_requests`` (to be given every acquire and release), ``ignored`` (a tuple of event
classes that it has no use for), ``reopen()`` (SIGHUP), ``close()``
(called once, after its last event) and ``dropped`` (events it lost in a queue of its own, which
are added to the ones counted here).

Decision: a queue and a thread for each sink, where the design proposed one thread for all. With
one thread, a sink that never returns takes the others with it, and no bound on a flush helps.
Sinks are added by people, so there are few.

The servers' counters do not pass through here, so they cannot be dropped: see
:mod:`timers.server.statistics`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from timers.server.observers.event_queue import Dispatcher, Observers

from .sinks.torch_requests import RequestEvents
from .story import Stories

if TYPE_CHECKING:
    from timers.events import Event
    from timers.server.statistics import Statistics

__all__ = ["Pipeline", "Sink", "SinkCounts"]

_logger = logging.getLogger(__name__)
FLUSH_SECONDS = 1.0
"""How long torch's server is held up, at most, to get an event out before it kills."""


class Sink(Protocol):
    """What every sink has; the optional parts are in this module's description."""

    @property
    def name(self) -> str:
        """Short and unique in its pipeline: the value of the ``sink`` label in metrics."""
        ...

    def __call__(self, event: Event, /) -> None:
        """Take one event, on a thread of its own. May block, may raise."""
        ...


class SinkCounts(NamedTuple):
    """What a sink lost."""

    dropped: int
    errors: int


class Pipeline:
    """An :class:`~timers.events.Observer` that passes events on to sinks.

    :param sinks: each gets a queue and a thread of its own.
    :param run_id: for the events made by :meth:`log_event`.
    :param capacity: how many events may wait for each sink; further ones are dropped and counted.
    :raises ValueError: two sinks have the same name.

    All methods are safe from any thread. About fork see
    :class:`~timers.server.observers.event_queue.Dispatcher`.
    """

    def __init__(self, *sinks: Sink, run_id: str = "", capacity: int = 10_000) -> None:
        self.run_id = run_id
        self._capacity = capacity
        self._sinks: dict[str, tuple[Sink, Dispatcher]] = {}
        self._observers = Observers()
        self.statistics: tuple[Statistics, ...] = ()
        """The counts of the watched servers."""
        self._requests: RequestEvents | None = None
        self.stories = Stories()
        """What led to the reaps under way: the end of each is given it."""
        self._lock = threading.Lock()
        self._closed: set[str] = set()
        for sink in sinks:
            self.add(sink)

    def add(self, sink: Sink) -> None:
        """Pass events on to ``sink`` from now on.

        A server asks for ``wants_requests`` when it starts: add sinks before.

        :raises ValueError: there is a sink of this name already.
        """
        dispatcher = Dispatcher(
            sink,
            name=sink.name,
            capacity=self._capacity,
            wants_requests=bool(getattr(sink, "wants_requests", False)),
            ignored=getattr(sink, "ignored", ()),
        )
        with self._lock:
            if sink.name in self._sinks:
                raise ValueError(
                    f"there is a sink named {sink.name!r} already: names tell sinks apart in"
                    " metrics, give this one another"
                )
            self._sinks = {**self._sinks, sink.name: (sink, dispatcher)}
            self._observers = Observers(*(each for _, each in self._sinks.values()))

    @property
    def wants_requests(self) -> bool:
        """Whether a sink wants to be told of every acquire and release."""
        return self._observers.wants_requests

    def emit(self, event: Event) -> None:
        """Queue ``event`` for each sink; the end of a reap with its story.

        Never blocks, never raises.
        """
        with contextlib.suppress(Exception):  # an event without its story is still one
            event = self.stories.completed(event)
        self._observers.emit(event)

    def flush(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds in all until every sink has had everything so far."""
        return self._observers.flush(timeout)

    def close(self, timeout: float = 2.0) -> bool:
        """Deliver what is queued and close the sinks, in up to ``timeout`` seconds in all.

        What could not be delivered by then is dropped and counted. A sink that is still busy is
        left as it is, and so is one whose own ``close`` does not return in time. May be called
        again; returns whether everything was delivered.
        """
        deadline = time.monotonic() + min(timeout, threading.TIMEOUT_MAX)
        done: dict[str, bool] = {}
        closers = [
            threading.Thread(
                target=self._close, args=(name, timeout, done), name=f"close-{name}", daemon=True
            )
            for name in self._sinks
        ]
        for closer in closers:
            try:
                closer.start()
            except RuntimeError:
                closer.run()  # no more threads to be had: one after the other, then
        for closer in closers:
            if closer.ident is not None:
                closer.join(max(0.0, deadline - time.monotonic()))
        for _, dispatcher in self._sinks.values():
            dispatcher.close(0.0)  # the counts are final when this returns
        return all(done.get(name, False) for name in self._sinks)

    def _close(self, name: str, timeout: float, done: dict[str, bool]) -> None:
        sink, dispatcher = self._sinks[name]
        done[name] = dispatcher.close(timeout)
        with self._lock:
            if not done[name] or name in self._closed:
                return
            self._closed.add(name)
        close = getattr(sink, "close", None)
        if close is not None:
            try:
                close()
            except Exception:
                _logger.exception("the sink %r could not be closed", name)

    def reopen(self) -> None:
        """Have sinks that write to files open them anew. Safe in a signal handler."""
        for sink, _ in self._sinks.values():
            reopen = getattr(sink, "reopen", None)
            if reopen is not None:
                with contextlib.suppress(Exception):
                    reopen()

    def watch(self, statistics: Statistics) -> None:
        """Have the counts of a server included in the metrics; several are summed."""
        with self._lock:
            if not any(known is statistics for known in self.statistics):
                self.statistics = (*self.statistics, statistics)

    @property
    def sink_counts(self) -> dict[str, SinkCounts]:
        """What each sink lost so far, exactly."""
        return {
            name: SinkCounts(
                dispatcher.dropped + int(getattr(sink, "dropped", 0)), dispatcher.errors
            )
            for name, (sink, dispatcher) in self._sinks.items()
        }

    def log_event(self, name: str, request: object | None = None) -> None:
        """Take an event as torch's ``FileTimerServer`` reports it: pass this as its ``log_event``.

        Yields what that callback knows: the start and stop of the watchdog, expired timers and
        kills, with the worker's ranks; and their counters. Not for a server that has this pipeline
        as its observer: it would count everything twice.

        Waits up to a second for the sinks, since what such a server does next is to kill the
        worker, and then its own process. Never raises.
        """
        with contextlib.suppress(Exception):
            with self._lock:
                adapter = self._requests
                if adapter is None:
                    adapter = self._requests = RequestEvents(self.run_id)
            self.watch(adapter.statistics)
            event = adapter.event(name, request)
            if event is not None:
                self.emit(event)
                self.flush(FLUSH_SECONDS)
