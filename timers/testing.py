"""Clocks, clients, observers and sources for tests: ours, and those of whoever uses this package.

::

    from timers.testing import RecordingClient


    def test_the_step_is_guarded():
        client = RecordingClient()
        timers.configure(client)
        train_one_step()
        assert client.names == [("acquire", "step"), ("release", "step")]

They behave as the real ones do (the same tests run against both), and are safe from any thread.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from .api import TimerClient
from .transport.wire import Rejection

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from .events import Event
    from .transport.wire import Message

__all__ = ["Call", "FakeClock", "FakeSource", "RecordingClient", "RecordingObserver"]

EventT = TypeVar("EventT", bound="Event")

_NS = 1_000_000_000


class FakeClock:
    """A :class:`~timers.clock.Clock` that stands still until it is moved by hand.

    :param time: seconds since the epoch at which the wall clock starts.
    :param monotonic_ns: nanoseconds at which the monotonic clock starts.

    A server waits in real time for what it expects: one that runs in its own thread takes notice
    of an :meth:`advance` after at most its ``max_interval``, so give it a small one. It takes a
    jump of more than two seconds for a pause of its own (a stopped process), after which releases
    get half a second, of this clock, to arrive before anything expires: after a jump, let time go
    on in small steps until the outcome is there.
    """

    def __init__(
        self, time: float = 1_700_000_000.0, monotonic_ns: int = 1_000_000_000_000
    ) -> None:
        self._lock = threading.Lock()
        self._time_ns = round(time * _NS)
        self._monotonic_ns = monotonic_ns

    def monotonic_ns(self) -> int:
        """Return nanoseconds of the monotonic clock."""
        return self._monotonic_ns

    def time(self) -> float:
        """Return seconds since the epoch."""
        return self._time_ns / _NS

    def advance(self, seconds: float) -> None:
        """Let time pass: both clocks go forward.

        :raises ValueError: for a negative number, which no monotonic clock can do.
        """
        if seconds < 0:
            raise ValueError(f"advance({seconds!r}): a monotonic clock cannot go back")
        with self._lock:
            self._time_ns += round(seconds * _NS)
            self._monotonic_ns += round(seconds * _NS)

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward or, with a negative number, back; no time passes."""
        with self._lock:
            self._time_ns += round(seconds * _NS)


class Call(NamedTuple):
    """One call that a :class:`RecordingClient` received."""

    name: str
    """``acquire`` or ``release``."""
    scope_id: str
    expiration_time: float | None = None
    """Wall-clock seconds since the epoch; None for a release."""


class RecordingClient(TimerClient):
    """A client that sends nothing and remembers what it was asked to send.

    A block of :class:`~timers.expires` is an acquire and a release; a block inside another one of
    the same scope is two acquires, of which the second restarts the countdown of the outer block.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        """Every call, in order."""

    @property
    def names(self) -> list[tuple[str, str]]:
        """Every call as (``acquire`` or ``release``, scope): what most tests compare."""
        return [(call.name, call.scope_id) for call in list(self.calls)]

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        """Remember an acquire."""
        self.calls.append(Call("acquire", scope_id, expiration_time))

    def release(self, scope_id: str) -> None:
        """Remember a release."""
        self.calls.append(Call("release", scope_id))


class RecordingObserver:
    """An :class:`~timers.events.Observer` that keeps what it receives.

    :param wants_requests: whether to receive every acquire and release as well.
    """

    def __init__(self, *, wants_requests: bool = False) -> None:
        self.wants_requests = wants_requests
        self.events: list[Event] = []
        """Every event, in order."""
        self.flushes: list[int] = []
        """For each flush, how many events had been emitted by then."""

    def emit(self, event: Event) -> None:
        """Keep one event."""
        self.events.append(event)

    def flush(self, timeout: float) -> bool:
        """Note the call and return true: nothing is ever under way here."""
        del timeout
        self.flushes.append(len(self.events))
        return True

    @property
    def names(self) -> list[str]:
        """The name of every event, in order."""
        return [event.name for event in list(self.events)]

    def of(self, kind: type[EventT]) -> list[EventT]:
        """Every event of one class, in order."""
        return [event for event in list(self.events) if isinstance(event, kind)]


class FakeSource:
    """Requests for a :class:`~timers.server.watchdog.Watchdog`: what is put in comes out.

    It has no descriptor and never waits. Whoever puts requests in calls
    :meth:`~timers.server.watchdog.Watchdog.step` afterwards, or runs it in a loop.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: list[Message] = []
        self._rejections: list[Rejection] = []

    def put(self, *requests: Message | Rejection) -> None:
        """Add valid requests and refused ones, for the next :meth:`read`."""
        with self._lock:
            for request in requests:
                if isinstance(request, Rejection):
                    self._rejections.append(request)
                else:
                    self._messages.append(request)

    def fileno(self) -> int | None:
        """Return None: there is no descriptor to wait for."""
        return None

    def read(
        self, timeout: float, pids: Collection[int] = ()
    ) -> tuple[Sequence[Message], Sequence[Rejection]]:
        """Return everything that was put in since the last call."""
        del timeout, pids
        with self._lock:
            messages, self._messages = self._messages, []
            rejections, self._rejections = self._rejections, []
        return messages, rejections
