"""What a worker counted on its board, added to the counts of the server: once, by whichever.

Behind what the worker counted the board has a copy of what a server has counted of it, so that the
server that follows goes on from there.
"""

from __future__ import annotations

import time
from array import array
from typing import TYPE_CHECKING

from timers.transport import board
from timers.transport.board import DEPTH, DEPTH_BITS, DURATIONS, MOMENT_NS, RATIOS, WARM_UPS

if TYPE_CHECKING:
    from timers.server.statistics import Statistics

    from ._board import Board, Slot

_NS = 1_000_000_000
_BILLION = 1e9
_MOST = 1 << 56
"""A year has fewer nanoseconds; what grows by more between two counts is nobody's count."""
_LARGEST = 1 << 62
_MOST_AT_ONCE = 1 << 20
"""More blocks than a worker can enter and leave while one slot is read."""
_DURATION_BUCKETS = len(board.DURATION_BUCKETS) + 1
_RATIO_BUCKETS = len(board.RATIO_BUCKETS) + 1


class BoardCounts:
    """Counts what one board says.

    :param own: the board.
    :param statistics: where it is counted.

    Under the server's lock.
    """

    def __init__(self, own: Board, statistics: Statistics) -> None:
        self._board = own
        self._statistics = statistics
        self._states = self._extras = b""
        """Of the last count."""
        self._open: set[int] = set()
        """Numbers of the slots that are counted as active."""
        self._overdue: dict[int, int] = {}
        """By number: the state of slots that are counted as overdue."""
        self._counted_ns = 0
        """When that was (CLOCK_MONOTONIC)."""
        self._unsettled: set[int] = set()
        """Numbers of those whose durations may be stored a moment after their state."""
        self.absurd = 0
        """How many slots were found to say what cannot be, since the last look at this number."""

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left that another count, a moment later, would add."""
        return not self._unsettled

    def count(self, *, final: bool = False) -> None:
        """Count what has happened since the last time.

        :param final: whether the worker is no more, so that nothing is on its way.
        """
        self._count_lost()
        states, extras = self._board.states(), self._board.extras()
        is_same = states == self._states and extras == self._extras
        if is_same and not self._unsettled and not final:
            return
        now_ns = time.monotonic_ns()
        is_later = now_ns - self._counted_ns >= MOMENT_NS
        self._counted_ns = now_ns
        before, extras_before = _words(self._states), _words(self._extras)
        now, extras_now = _words(states), _words(extras)
        self._states, self._extras = states, extras
        unsettled, self._unsettled = self._unsettled, set()
        for number, state in enumerate(now):
            same = number < len(before) and before[number] == state
            # Only a release of nothing leaves a state as it was.
            same = same and extras_before[number] == extras_now[number]
            if same and number not in unsettled and not final:
                continue
            is_settled = (same and is_later) or final or bool(state & DEPTH)
            self._count(number, state, settled=is_settled)

    def _count_lost(self) -> None:
        words = self._board.words
        lost = [0, 0]
        for index in range(2):
            now = words[board.LOST + index]
            lost[index] = self._more(now, words[board.COUNTED_LOST + index])
            words[board.COUNTED_LOST + index] = now
        self._statistics.lost(*lost)

    def _count(self, number: int, state: int, *, settled: bool) -> None:
        own, layout = self._board, self._board.layout
        scope_id = own.scope(number)
        if scope_id is None:
            return
        info = own.row(layout.infos, number, board.INFO_WORDS)
        counts = own.row(layout.counts, number, board.COUNT_WORDS)
        known = own.row(layout.counted, number, board.COUNTED_WORDS)
        released = board.releases(state, info[board.EXTRA])
        acquires = self._more(state >> DEPTH_BITS, known[board.COUNTED_STATE] >> DEPTH_BITS)
        releases, known[board.COUNTED_RELEASES] = self._beyond(
            released, known[board.COUNTED_RELEASES]
        )
        is_open = bool(state & DEPTH) and own.ignored.get(number) != state
        active = is_open - (number in self._open)
        (self._open.add if is_open else self._open.discard)(number)
        overdue = -(self._overdue.get(number, state) != state)
        if overdue:
            del self._overdue[number]
        self._statistics.scope(scope_id).count(acquires, releases, active, overdue)
        self._statistics.requested(acquires + releases)
        if settled:
            known[: board.COUNT_WORDS] = self._count_durations(
                scope_id, counts, info, known, released
            )
        else:
            self._unsettled.add(number)
        known[board.COUNTED_STATE] = state
        at = layout.counted + number * board.COUNTED_WORDS
        own.words[at : at + board.COUNTED_WORDS] = memoryview(array("q", known))

    def _count_durations(
        self, scope_id: str, counts: list[int], info: list[int], known: list[int], released: int
    ) -> list[int]:
        """Count them; return ``counts`` with what is counted in each first bucket.

        A worker counts no block of a first bucket: they are those that nothing else counts. One
        that was released and not sorted yet, because its worker had to make way for somebody else
        just then, is taken for such a block. When it turns up in its own bucket it is not counted
        there before another one has come to the first bucket in its place.
        """
        scope = self._statistics.scope(scope_id)
        timed = released - counts[board.UNTIMED]
        others = sum(counts[DURATIONS + 1 : DURATIONS + _DURATION_BUCKETS])
        shorts = timed - others
        short, short_counted = self._beyond(shorts, known[DURATIONS])
        others = sum(counts[RATIOS + 1 : RATIOS + _RATIO_BUCKETS]) + counts[board.UNRATED]
        lows = timed - others
        low, low_counted = self._beyond(lows, known[RATIOS])
        counts[DURATIONS], counts[RATIOS] = short_counted, low_counted
        more = [self._more(now, then) for now, then in zip(counts, known, strict=False)]
        _put_off(short_counted - shorts, counts, more, DURATIONS, _DURATION_BUCKETS)
        _put_off(low_counted - lows, counts, more, RATIOS, _RATIO_BUCKETS)
        short_ns = more[board.SHORT_NS]
        durations = [short, *more[DURATIONS + 1 : DURATIONS + _DURATION_BUCKETS]]
        scope.durations.add(durations, (more[board.DURATION_NS] + short_ns) / _NS)
        ratios = [low, *more[RATIOS + 1 : RATIOS + _RATIO_BUCKETS]]
        short_after = info[board.SHORT_AFTER]
        short_shares = short_ns / short_after if short_after > 0 else 0.0
        scope.ratios.add(ratios, more[board.RATIO_SUM] / _BILLION + short_shares)
        warm_up = more[WARM_UPS : WARM_UPS + _DURATION_BUCKETS]
        scope.warm_up.add(warm_up, more[board.WARM_UP_NS] / _NS)
        scope.took_at_most(
            counts[board.LONGEST_WARM_UP] / _NS,
            counts[board.LONGEST_STEADY] / _NS,
            info[board.AFTER] / _NS,
        )
        return counts

    def _beyond(self, now: int, counted: int) -> tuple[int, int]:
        """By how much ``now`` is beyond what is counted, and what is counted with that.

        For what is derived from several words, which the worker goes on to write while they are
        read one after another: it may seem to fall, and is not counted again when it rises.
        """
        now = max(-_LARGEST, min(now, _LARGEST))  # a sum of words need not fit in one
        if counted - _MOST_AT_ONCE <= now < counted:
            return 0, counted
        return self._more(now, counted), now

    def _more(self, now: int, then: int) -> int:
        """By how much a count has grown; 0, and noted, for what no worker can have counted."""
        more = now - then
        if 0 <= more < _MOST:
            return more
        self.absurd += 1
        return 0

    def expired(self, number: int, state: int) -> None:
        """Note that the scope of a slot has been counted as overdue."""
        self._overdue[number] = state

    def drop(self, slot: Slot) -> None:
        """Have an open block be none any more: it is ignored, and counted off, by the caller."""
        number = slot.number
        overdue = self._overdue.pop(number, slot.state) != slot.state
        self._statistics.scope(slot.scope).count(0, 0, number not in self._open, -overdue)
        self._open.discard(number)

    def count_active_anew(self) -> None:
        """Count what is open as active again: somebody has set these counts to 0."""
        self._open, self._overdue = set(), {}
        self._states = b""
        self.count()


def _put_off(beyond: int, counts: list[int], more: list[int], first: int, buckets: int) -> None:
    """Take ``beyond`` blocks back out of ``more``, and out of ``counts``, which is kept as counted.

    From all buckets but the ``first``.
    """
    for index in range(first + 1, first + buckets):
        if beyond <= 0:
            return
        some = min(beyond, more[index])
        more[index] -= some
        counts[index] -= some
        beyond -= some


def _words(data: bytes) -> memoryview:
    return memoryview(data).cast("q")
