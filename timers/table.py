"""Which timers are running and which is due next: pure state, with no clock and no I/O.

A timer is known by (worker, thread, scope). Acquiring it again replaces it, which is the heartbeat
idiom; releasing removes it. Requests of torch's clients carry no thread, so there (worker, scope)
is the key and torch's rule holds: the last acquire wins, one release removes.

An acquire, a release and an expiry each cost O(log n) at worst. Released timers leave their heap
entry behind, because removing from the middle of a heap is O(n); once such leftovers are more than
half of the heap it is rebuilt, so memory stays proportional to the timers that are alive.

Not thread-safe: whoever owns a table serializes the calls.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

__all__ = ["Timer", "TimerTable"]

WorkerT = TypeVar("WorkerT", bound="Hashable")

_MIN_STALE = 512
"""Below this many leftovers a rebuild is not worth its constant cost."""


class Timer(Generic[WorkerT]):
    """One acquired timer. Times are nanoseconds of the monotonic clock of this host."""

    __slots__ = (
        "acquired_ns",
        "checkpoints",
        "deadline_ns",
        "expiration_time",
        "expired",
        "live",
        "outer",
        "scope_id",
        "signal",
        "span_id",
        "started_ns",
        "thread",
        "traceparent",
        "warn_ns",
        "worker",
    )

    def __init__(
        self,
        worker: WorkerT,
        scope_id: str,
        *,
        deadline_ns: int,
        acquired_ns: int,
        thread: int | None = None,
        signal: int = 0,
        expiration_time: float = 0.0,
        traceparent: str | None = None,
        span_id: str | None = None,
    ) -> None:
        self.worker = worker
        self.scope_id = scope_id
        self.deadline_ns = deadline_ns
        self.acquired_ns = acquired_ns
        """When the countdown began: a heartbeat or the end of an inner block restarts it."""
        self.started_ns = acquired_ns
        """When the block itself was entered."""
        self.thread = thread
        self.signal = signal
        self.expiration_time = expiration_time
        self.traceparent = traceparent
        self.span_id = span_id
        self.outer: Timer[WorkerT] | None = None
        """For a nested block of the same scope: the timer of the block around it."""
        self.checkpoints: tuple[int, ...] = ()
        """Moments before the deadline at which somebody wants to look, the next one first."""
        self.warn_ns: int | None = None
        """When the worker wants to be warned of; None when it does not, or no longer."""
        self.live = True
        """Whether the table still holds it: false once released, replaced or cleared."""
        self.expired = False
        """Whether :meth:`TimerTable.expired` has already returned it."""

    def continues(self, other: Timer[WorkerT]) -> None:
        """Make this the timer of the same block as ``other``, with a new countdown."""
        self.started_ns = other.started_ns
        self.outer = other.outer
        if self.span_id is None:
            self.traceparent, self.span_id = other.traceparent, other.span_id


class TimerTable(Generic[WorkerT]):
    """All running timers, by worker and by deadline."""

    def __init__(self) -> None:
        self._workers: dict[WorkerT, dict[object, Timer[WorkerT]]] = {}
        # The number breaks ties, so that equal deadlines expire in the order of their acquires
        # and timers themselves are never compared.
        self._heap: list[tuple[int, int, Timer[WorkerT]]] = []
        self._sequence = 0
        self._size = 0
        self._stale = 0
        self._reached: list[Timer[WorkerT]] = []

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Timer[WorkerT]]:
        for timers in self._workers.values():
            yield from timers.values()

    def acquire(self, timer: Timer[WorkerT]) -> Timer[WorkerT] | None:
        """Add ``timer``; return the one it replaces (same worker, thread and scope), if any."""
        timers = self._workers.get(timer.worker)
        if timers is None:
            timers = self._workers[timer.worker] = {}
        key = timer.scope_id if timer.thread is None else (timer.thread, timer.scope_id)
        replaced = timers.get(key)
        timers[key] = timer
        if replaced is None:
            self._size += 1
        else:
            self._retire(replaced)
        self._sequence += 1
        next_ns = timer.checkpoints[0] if timer.checkpoints else timer.deadline_ns
        heappush(self._heap, (next_ns, self._sequence, timer))
        return replaced

    def release(self, worker: WorkerT, thread: int | None, scope_id: str) -> Timer[WorkerT] | None:
        """Remove and return a timer; None when there is none, which is allowed (torch's rule)."""
        timers = self._workers.get(worker)
        if timers is None:
            return None
        timer = timers.pop(scope_id if thread is None else (thread, scope_id), None)
        if timer is None:
            return None
        if not timers:
            del self._workers[worker]
        self._size -= 1
        self._retire(timer)
        return timer

    def remove_worker(self, worker: WorkerT) -> list[Timer[WorkerT]]:
        """Remove and return every timer of ``worker``, in the order of their acquires."""
        timers = list(self._workers.pop(worker, {}).values())
        self._size -= len(timers)
        for timer in timers:
            self._retire(timer)
        return timers

    def expired(self, now_ns: int) -> list[Timer[WorkerT]]:
        """Return each timer whose deadline is ``now_ns`` or earlier, once, by deadline.

        They stay in the table, marked ``expired``, until they are released or their worker is
        removed. Checkpoints that have passed are left for :meth:`take_reached`.
        """
        due: list[Timer[WorkerT]] = []
        while self._heap and self._heap[0][0] <= now_ns:
            _, sequence, timer = heappop(self._heap)
            if not timer.live:
                self._stale -= 1
            elif timer.checkpoints:
                self._reached.append(timer)
                timer.checkpoints = timer.checkpoints[1:]
                next_ns = timer.checkpoints[0] if timer.checkpoints else timer.deadline_ns
                heappush(self._heap, (next_ns, sequence, timer))
            else:
                timer.expired = True
                due.append(timer)
        return due

    def take_reached(self) -> list[Timer[WorkerT]]:
        """Return the timers of which :meth:`expired` passed a checkpoint since the last call."""
        reached, self._reached = self._reached, []
        return [timer for timer in reached if timer.live and not timer.expired]

    def next_deadline(self) -> int | None:
        """When :meth:`expired` will next have something to do; None when nothing runs."""
        heap = self._heap
        while heap and not heap[0][2].live:
            heappop(heap)
            self._stale -= 1
        return heap[0][0] if heap else None

    def _retire(self, timer: Timer[WorkerT]) -> None:
        timer.live = False
        if timer.expired:
            return  # its heap entry is gone already
        self._stale += 1
        if self._stale > _MIN_STALE and self._stale * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].live]
            heapify(self._heap)
            self._stale = 0
