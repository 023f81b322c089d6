"""The boards of all workers: when each is to be looked at, and what that finds.

A board is looked at when its earliest deadline (or first moment to sample a block) has come, which
is published on it: a worker whose new block would be due earlier says so. While all is well a
board therefore costs a look or two for each ``after`` of its blocks, however many of them there
are, and one that stands still costs nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from timers.server.table import Timer
from timers.transport import board
from timers.transport.board import MOMENT_NS, NONE

from ._board import BadBoardError, Board
from ._counts import BoardCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from timers.clock import Clock
    from timers.server.statistics import Statistics
    from timers.server.workers import Worker

    from ._board import Slot

__all__ = ["BadBoardError", "Boards"]

NS = 1_000_000_000
_FOREVER = 1 << 62
_MOST_BOARDS = 64
"""Of one worker."""
_AGAIN_NS = NS
"""Slots that blocks of less than this are entered in are not looked at before there is one: the
worker sends a wake-up for it."""


class _BoardTimer(Timer["Worker"]):
    """A block on a board that has expired."""

    __slots__ = ("board", "number", "state")

    board: Board
    number: int
    state: int

    @property
    def live(self) -> bool:
        """Whether the block is open still, and was not restarted."""
        return self.board.is_open(self.number, self.state)

    @live.setter
    def live(self, live: bool) -> None:
        """Change nothing: the worker decides."""


class _Watched:
    """One board, and what the server has to do with it."""

    __slots__ = (
        "board",
        "confirms",
        "counts",
        "expired",
        "is_woken",
        "look_ns",
        "published_ns",
        "refused",
        "skew_ns",
        "states",
        "worker",
    )

    def __init__(self, worker: Worker, own: Board, statistics: Statistics) -> None:
        self.worker = worker
        self.board = own
        self.counts = BoardCounts(own, statistics)
        self.skew_ns = 0
        """By how much the worker's monotonic clock, which the board goes by, is ahead of ours."""
        self.look_ns = 0
        """When it is to be looked at next."""
        self.published_ns = 0
        """What the worker knows of that, by its own clock."""
        self.is_woken = False
        """Whether the worker has sent a wake-up since the last look."""
        self.confirms = False
        """Whether the next look is the second one, a moment after a wake-up, or after a later time
        was published."""
        self.states = b""
        """Of the last look."""
        self.expired: dict[int, _BoardTimer] = {}
        """By number: blocks that have expired."""
        self.refused = 0
        """How many slots there were more than are read."""


class Boards:
    """The boards that workers have handed over; :class:`~timers.server._state.Deadlines` of theirs.

    :param clock: where the time comes from.
    :param statistics: where it is counted what they count.
    :param most: how many slots of one worker are read; blocks in further ones are not watched.

    Under the server's lock, but for the time when it is made.
    """

    def __init__(self, clock: Clock, statistics: Statistics, most: int = 10_000) -> None:
        self._clock = clock
        self._statistics = statistics
        self._most = most
        self.of: dict[Worker, list[_Watched]] = {}
        """By worker; to be read only."""
        self._watched: list[_Watched] = []
        """All of these."""
        self._reached: list[Timer[Worker]] = []
        self.offsets: Callable[[int], tuple[int, ...]] = lambda _: ()
        """When a timer of so many ns is to be sampled, in ns after its acquire."""
        self.sample_from_ns = 0
        self.sample_share = 0
        """Published for the workers: see :data:`timers.transport.board.SAMPLE_FROM_NS`."""
        self.spans: dict[tuple[Worker, int | None, str], tuple[str | None, str | None]] = {}
        """Of blocks that are open: what their workers said of their spans."""
        self.wants_requests = False
        """Whether each acquire and release is wanted as an event."""

    def accept(self, worker: Worker, fd: int) -> None:
        """Take a board over from its worker, or from the server that had it before.

        :param fd: its descriptor, closed in any case.
        :raises BadBoardError: it is none, or one too many.
        """
        own = Board(fd)
        known = self.of.setdefault(worker, [])
        for watched in list(known):
            if watched.board.is_over:  # of a client made for a few blocks and forgotten
                watched.counts.count(final=True)
                self._remove(watched)
        same = [watched for watched in known if watched.board.file == own.file]
        for watched in [] if same else [each for each in known if own.replaces(each.board)]:
            watched.counts.count()
            watched.board.move_to(own)
            same = [watched]
        if not same and len(known) >= _MOST_BOARDS:
            raise BadBoardError(f"the process has {len(known)} already; one client is enough")
        watched = same[0] if same else _Watched(worker, own, self._statistics)
        watched.look_ns = watched.published_ns = 0
        own = watched.board
        words = own.words
        words[board.SAMPLE_FROM_NS], words[board.SAMPLE_SHARE] = (
            self.sample_from_ns,
            self.sample_share,
        )
        watched.skew_ns = self._skew_ns(worker, own)
        words[board.WANTS] = int(self.wants_requests)
        words[board.SERVED] = time.time_ns()
        if not same:
            known.append(watched)
            self._watched.append(watched)
        self._share(known)

    def _remove(self, watched: _Watched) -> None:
        self._watched.remove(watched)
        self.of[watched.worker].remove(watched)

    def has(self, worker: Worker) -> bool:
        """Whether ``worker`` has handed over a board."""
        return bool(self.of.get(worker))

    def _share(self, known: list[_Watched]) -> None:
        """Read no more slots of one worker than it may have, those of its first boards first."""
        left = self._most
        for watched in known:
            own = watched.board
            own.limit = min(left, own.layout.slots)
            left -= own.used

    def _skew_ns(self, worker: Worker, own: Board) -> int:
        """By how much the monotonic clock of ``worker`` is ahead of ours."""
        if worker.clock_skew_ns is not None:
            return worker.clock_skew_ns
        # It may not be read: by the clock on the wall, which all have in common.
        its_ns = own.words[board.MONOTONIC] - own.words[board.WALL]
        skew_ns = its_ns - (self._clock.monotonic_ns() - int(self._clock.time() * NS))
        return skew_ns if abs(skew_ns) > NS else 0

    def wake(self, worker: Worker) -> None:
        """Look at the boards of ``worker`` now, which says that something is due early."""
        for watched in self.of.get(worker, ()):
            watched.look_ns = 0
            watched.is_woken = True

    # -- deadlines ----------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """Return when :meth:`expired` next has something to do; None when nothing runs."""
        if not self._watched:
            return None
        found = min([watched.look_ns for watched in self._watched])
        return None if found >= _FOREVER else found

    def due(self, now_ns: int) -> set[Worker]:
        """Return nobody: of these workers there is nothing to be read before they expire."""
        del now_ns
        return set()

    def expired(self, now_ns: int) -> list[Timer[Worker]]:
        """Return each timer that is overdue, once, marked ``expired``."""
        found: list[Timer[Worker]] = []
        for watched in self._watched:
            if watched.look_ns <= now_ns:
                found += self._look(watched, now_ns)
        return sorted(found, key=lambda timer: timer.deadline_ns)

    def _look(self, watched: _Watched, now_ns: int) -> list[Timer[Worker]]:
        own = watched.board
        if own.has_moved:
            watched.look_ns = _FOREVER
            return []
        if len(known := self.of[watched.worker]) > 1:
            self._share(known)
        now_ns += watched.skew_ns
        own.words[board.LOOKED] += 1
        soonest, slots, reached = own.look(now_ns, self.offsets)
        self._publish(watched, now_ns, soonest)
        for slot, warns in reached:
            timer = self._timer(watched, slot)
            timer.warn_ns = 0 if warns else None
            self._reached.append(timer)
        found: list[Timer[Worker]] = []
        if watched.expired:
            watched.expired = {
                number: timer for number, timer in watched.expired.items() if timer.live
            }
        for slot in slots:
            timer = watched.expired[slot.number] = self._timer(watched, slot)
            timer.expired = True
            watched.counts.expired(slot.number, slot.state)
            found.append(timer)
        return found

    def _publish(self, watched: _Watched, now_ns: int, soonest: int) -> None:
        """Set when to look next, and have the worker know; by the worker's clock."""
        own = watched.board
        if not watched.confirms and (states := own.states()) != watched.states:
            # The worker is at work, and may enter any of its blocks again at any moment.
            watched.states = states
            shortest = own.shortest()
            if shortest >= _AGAIN_NS:
                soonest = min(soonest, now_ns + shortest)
        look_ns = min(soonest, _FOREVER)
        if watched.confirms:
            look_ns = min(look_ns, watched.published_ns)
        watched.confirms = look_ns > watched.published_ns or watched.is_woken
        watched.is_woken = False
        if look_ns != watched.published_ns:
            watched.published_ns = look_ns
            own.words[board.LOOK] = NONE if self.wants_requests else look_ns
        # A deadline may have been stored that is earlier than this and was not seen: see
        # :mod:`timers.transport.board`. A moment later it is.
        due_ns = min(look_ns, now_ns + MOMENT_NS) if watched.confirms else look_ns
        watched.look_ns = due_ns - watched.skew_ns if due_ns < _FOREVER else _FOREVER

    def take_reached(self) -> list[Timer[Worker]]:
        """Return the timers of which a moment to sample or to warn has come."""
        reached, self._reached = self._reached, []
        return [timer for timer in reached if timer.live]

    def _timer(self, watched: _Watched, slot: Slot) -> _BoardTimer:
        skew_ns = watched.skew_ns
        deadline_ns = slot.deadline_ns - skew_ns
        wall_ns = slot.deadline_ns + watched.board.words[board.EPOCH]
        timer = _BoardTimer(
            watched.worker,
            slot.scope,
            deadline_ns,
            slot.acquired_ns - skew_ns,
            slot.thread,
            slot.signal,
            wall_ns / NS if 0 < wall_ns < _FOREVER * 2 else 0.0,
            self.spans.get((watched.worker, slot.thread, slot.scope)),
        )
        timer.started_ns = slot.started_ns - skew_ns
        timer.board, timer.number, timer.state = watched.board, slot.number, slot.state
        return timer

    def __iter__(self) -> Iterator[Timer[Worker]]:
        for watched in self._watched:
            for slot in watched.board.open_slots():
                yield self._known(watched, slot)

    def _known(self, watched: _Watched, slot: Slot) -> Timer[Worker]:
        known = watched.expired.get(slot.number)
        is_same = known is not None and known.state == slot.state
        return known if known is not None and is_same else self._timer(watched, slot)

    def remove_worker(self, worker: Worker) -> list[Timer[Worker]]:
        """Count the boards of ``worker`` once more; return what is open on them.

        While it lives its boards stay, and what is open now is ignored from now on.
        """
        has_ended = worker.has_ended
        found: list[Timer[Worker]] = []
        self.spans = {key: span for key, span in self.spans.items() if key[0] is not worker}
        for watched in list(self.of.get(worker, ())):
            watched.counts.count(final=has_ended)
            for slot in watched.board.open_slots():
                found.append(self._known(watched, slot))
                if not has_ended:
                    watched.counts.drop(slot)
                    watched.board.ignored[slot.number] = slot.state
            watched.expired = {}
            if has_ended:
                self._remove(watched)
        if not self.has(worker):
            self.of.pop(worker, None)
        return sorted(found, key=lambda timer: timer.acquired_ns)

    def rebuild(self) -> None:
        """Look at everything again, after a call that was cut short by an error."""
        for watched in self._watched:
            watched.look_ns = 0
            watched.counts.count_active_anew()
            for number, timer in list(watched.expired.items()):
                if timer.expired and timer.live:
                    self._statistics.scope(timer.scope_id).count(0, 0, 0, 1)
                    watched.counts.expired(number, timer.state)
                else:
                    del watched.expired[number]
                    watched.board.expired.pop(number, None)

    # -- counts -------------------------------------------------------------------------------

    def count(self) -> bool:
        """Count what the workers have counted; return whether another count would add more."""
        for watched in self._watched:
            watched.counts.count()
        return all(watched.counts.is_settled for watched in self._watched)

    def take_refused(self) -> list[str]:
        """Return for what reason each slot was refused since the last call.

        Because it says what no worker can have counted, or because it is one too many.
        """
        found: list[str] = []
        for watched in self._watched:
            own, counts = watched.board, watched.counts
            found += ["out_of_range"] * counts.absurd
            counts.absurd = 0
            there = max(0, min(own.words[board.USED], own.layout.slots))
            found += ["too_many"] * (there - own.used - watched.refused)
            watched.refused = max(watched.refused, there - own.used)
        return found
