"""Which timers are running and which is due next: pure state, with no clock and no I/O.

A timer is known by (worker, thread, scope). Acquiring it again replaces it, which is the heartbeat
idiom; releasing removes it. Requests of torch's clients carry no thread, so there (worker, scope)
is the key and torch's rule holds: the last acquire wins, one release removes.

An acquire, a release and an expiry each cost O(log n) at worst. Released timers leave their heap
entry behind, because removing from the middle of a heap is O(n); once such leftovers are more than
half of the heap, what is alive in it moves to a new one, a few entries with each release. So memory
stays proportional to the timers that are alive, and no single call takes long.

Not thread-safe: whoever owns a table serializes the calls.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

__all__ = ["Timer", "TimerTable", "TooManyTimersError"]

WorkerT = TypeVar("WorkerT", bound="Hashable")

_MIN_STALE = 512
"""Below this many leftovers a move is not worth its cost."""
_MOVED_AT_ONCE = 4
"""With each release; more than one, so that a move ends before the next one is due."""


class TooManyTimersError(Exception):
    """The worker has as many timers as one may have."""


class Timer(Generic[WorkerT]):
    """One acquired timer. Times are nanoseconds of the monotonic clock of this host."""

    __slots__ = (
        "acquired_ns",
        "checkpoints",
        "deadline_ns",
        "depth",
        "expiration_time",
        "expired",
        "live",
        "outer",
        "scope_id",
        "signal",
        "span",
        "started_ns",
        "thread",
        "warn_ns",
        "worker",
    )

    def __init__(  # noqa: PLR0917  # positional, because it is made for every acquire
        self,
        worker: WorkerT,
        scope_id: str,
        deadline_ns: int,
        acquired_ns: int,
        thread: int | None = None,
        signal: int = 0,
        expiration_time: float = 0.0,
        span: tuple[str | None, str | None] | None = None,
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
        self.span = span
        """The worker's ``traceparent`` and the id that the span of the scope shall have."""
        self.outer: Timer[WorkerT] | None = None
        """For a nested block of the same scope: the timer of the block around it."""
        self.depth = 0
        """How many blocks are around it."""
        self.checkpoints: tuple[int, ...] = ()
        """Moments before the deadline at which to sample or warn, the next one first."""
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
        self.depth = other.depth
        if self.span is None:
            self.span = other.span

    @property
    def traceparent(self) -> str | None:
        """W3C Trace Context of the worker's span; None when it does not trace."""
        return None if self.span is None else self.span[0]

    @property
    def span_id(self) -> str | None:
        """Which id the span of the scope shall have; None when that is nobody's wish."""
        return None if self.span is None else self.span[1]


class TimerTable(Generic[WorkerT]):
    """All running timers, by worker and by deadline.

    :param most: how many timers one worker may have.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._workers: dict[WorkerT, dict[object, Timer[WorkerT]]] = {}
        # The number breaks ties, so that equal deadlines expire in the order of their acquires
        # and timers themselves are never compared.
        self._heap: list[tuple[int, int, Timer[WorkerT]]] = []
        self._old_heap: list[tuple[int, int, Timer[WorkerT]]] = []
        """The one that is being moved out of; most often empty."""
        self._sequence = 0
        self._stale = 0
        self._reached: list[Timer[WorkerT]] = []

    def __len__(self) -> int:
        return sum(map(len, self._workers.values()))

    def __iter__(self) -> Iterator[Timer[WorkerT]]:
        for timers in self._workers.values():
            yield from timers.values()

    def acquire(self, timer: Timer[WorkerT]) -> Timer[WorkerT] | None:
        """Add ``timer``; return the one it replaces (same worker, thread and scope), if any.

        :raises TooManyTimersError: the worker has too many others.
        """
        timers = self._workers.get(timer.worker)
        if timers is None:
            timers = self._workers[timer.worker] = {}
        key = timer.scope_id if timer.thread is None else (timer.thread, timer.scope_id)
        replaced = timers.get(key)
        if replaced is None and len(timers) >= self._most:
            raise TooManyTimersError
        timers[key] = timer
        if replaced is not None:
            self._retire(replaced)
        self._sequence += 1
        heappush(self._heap, (_next_ns(timer), self._sequence, timer))
        return replaced

    def release(self, worker: WorkerT, thread: int | None, scope_id: str) -> Timer[WorkerT] | None:
        """Remove and return a timer; None when there is none, which is allowed (torch's rule)."""
        timers = self._workers.get(worker)
        if timers is None:
            return None
        key = scope_id if thread is None else (thread, scope_id)
        timer = timers.get(key)
        if timer is None:
            return None
        # In this order, so that one which is cut short in between is as good as not begun.
        self._retire(timer)
        del timers[key]
        if not timers:
            del self._workers[worker]
        return timer

    def remove_worker(self, worker: WorkerT) -> list[Timer[WorkerT]]:
        """Remove and return every timer of ``worker``, in the order of their acquires."""
        timers = list(self._workers.pop(worker, {}).values())
        for timer in timers:
            self._retire(timer)
        return timers

    def expired(self, now_ns: int) -> list[Timer[WorkerT]]:
        """Return each timer whose deadline is ``now_ns`` or earlier, once, by deadline.

        They stay in the table, marked ``expired``, until they are released or their worker is
        removed. Checkpoints that have passed are left for :meth:`take_reached`.
        """
        due: list[Timer[WorkerT]] = []
        while (heap := self._soonest()) and heap[0][0] <= now_ns:
            _, sequence, timer = heappop(heap)
            if timer.checkpoints:
                self._reached.append(timer)
                timer.checkpoints = timer.checkpoints[1:]
                heappush(heap, (_next_ns(timer), sequence, timer))
            else:
                timer.expired = True
                due.append(timer)
        return due

    def due(self, now_ns: int) -> set[WorkerT]:
        """Return whose timers :meth:`expired` would return (or pass a checkpoint of) now."""
        found = set()
        for heap in (self._heap, self._old_heap):
            # An entry of a heap is never due before the one above it.
            places = [0]
            while places:
                place = places.pop()
                if place < len(heap) and heap[place][0] <= now_ns:
                    if heap[place][2].live:
                        found.add(heap[place][2].worker)
                    places += (2 * place + 1, 2 * place + 2)
        return found

    def rebuild(self) -> None:
        """Put every timer that has not expired back in its place.

        For the owner of a table of which an operation was cut short. O(n).
        """
        entries = []
        for timer in self:
            if not timer.expired:
                self._sequence += 1
                entries.append((_next_ns(timer), self._sequence, timer))
        heapify(entries)
        self._heap, self._old_heap, self._stale = entries, [], 0

    def take_reached(self) -> list[Timer[WorkerT]]:
        """Return the timers of which :meth:`expired` passed a checkpoint since the last call."""
        reached, self._reached = self._reached, []
        return [timer for timer in reached if timer.live and not timer.expired]

    def next_deadline(self) -> int | None:
        """Return when :meth:`expired` next has something to do; None when nothing runs."""
        heap = self._soonest()
        return heap[0][0] if heap else None

    def _soonest(self) -> list[tuple[int, int, Timer[WorkerT]]]:
        """Return the heap with the timer that is due first on top; an empty one for none."""
        heap, old = self._heap, self._old_heap
        while heap and not heap[0][2].live:
            heappop(heap)
            self._stale -= 1
        while old and not old[0][2].live:
            heappop(old)
            self._stale -= 1
        return old if old and (not heap or old[0] < heap[0]) else heap

    def _retire(self, timer: Timer[WorkerT]) -> None:
        timer.live = False
        if timer.expired:
            return  # its heap entry is gone already
        self._stale += 1
        if self._old_heap:
            self._move()
        elif self._stale > _MIN_STALE and self._stale * 2 > len(self._heap):
            self._heap, self._old_heap = [], self._heap

    def _move(self) -> None:
        old = self._old_heap
        for _ in range(min(_MOVED_AT_ONCE, len(old))):
            entry = old.pop()  # a leaf: what is left is still a heap
            if entry[2].live:
                heappush(self._heap, entry)
            else:
                self._stale -= 1


def _next_ns(timer: Timer[Any]) -> int:
    return timer.checkpoints[0] if timer.checkpoints else timer.deadline_ns
