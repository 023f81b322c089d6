"""Boards as the server reads them: whose block is due, and what has been counted.

See :mod:`timers.transport.board` for what lies where, and for why two looks decide. Whatever is
read here was written by a worker, which may be broken or hostile: it costs that worker's own
timers at most.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from operator import sub
from typing import TYPE_CHECKING, NamedTuple

from timers.accelerator import least_in_c
from timers.linux.owned import identity
from timers.transport import board
from timers.transport.board import DEPTH, MOMENT_NS, NONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_MOST_SLOTS = 1 << 16
_MOST_NS = 1 << 62
_MOST_NAME_BYTES = 4096
_MAX_SIGNAL = 64


class BadBoardError(ValueError):
    """What a worker handed over is no board."""


class Slot(NamedTuple):
    """An open block, as one look found it."""

    number: int
    state: int
    """Changes whenever a block of the slot is entered, left or restarted."""
    scope: str
    thread: int
    signal: int
    deadline_ns: int
    after_ns: int
    started_ns: int
    warn_ns: int
    """When to warn, after the countdown began; 0 for never."""

    @property
    def acquired_ns(self) -> int:
        """When the countdown began."""
        return self.deadline_ns - self.after_ns


class Board:
    """The board of one client of one worker.

    :param fd: what the worker sent; closed in any case.
    :raises BadBoardError: it is no board, or one that could be truncated under the reader.

    For the watchdog's thread, or under its lock. The memory goes with the last reference.
    """

    def __init__(self, fd: int) -> None:
        try:
            self._memory = _map(fd)
            self.file = identity(fd)
            """Which memory it is, whoever maps it."""
        finally:
            os.close(fd)
        self.words = memoryview(self._memory).cast("q")
        self.layout = _layout(self.words)
        self.limit = self.layout.slots
        """How many slots the server is willing to read; no more than there are."""
        self.ignored: dict[int, int] = {}
        """By number: the state of slots whose open block somebody has cleared."""
        self.expired: dict[int, int] = {}
        """By number: the state of slots whose block has expired and is open still."""
        self._due: dict[int, tuple[int, int, int]] = {}
        """By number: state, deadline and time of the first look that found the block overdue."""
        self._reached: dict[int, tuple[int, int]] = {}
        """By number: state, and how many ns after its countdown began a block was looked at."""
        self._scopes: dict[int, str] = {}

    @property
    def used(self) -> int:
        """How many slots there are to look at."""
        used, most = self.words[board.USED], self.limit
        return used if 0 <= used <= most else max(0, min(used, most))

    def replaces(self, other: Board) -> bool:
        """Whether the worker has moved everything here from ``other``."""
        file = other.file
        is_same = file is not None and file[1] == self.words[board.MOVED_FROM]
        return is_same and self.layout.slots == other.layout.slots

    def move_to(self, new: Board) -> None:
        """Go on with what the worker has moved to, from what is counted here."""
        at = self.layout.counted
        end = at + self.used * board.COUNTED_WORDS
        new.words[at:end] = self.words[at:end]
        self._memory, self.words, self.file = new._memory, new.words, new.file

    @property
    def has_moved(self) -> bool:
        """Whether the worker goes on elsewhere, and has not handed that over yet."""
        return bool(self.words[board.CLOSED] == board.MOVED)

    @property
    def is_over(self) -> bool:
        """Whether its client is no more, and no block of it is open."""
        is_closed = self.words[board.CLOSED] and not self.has_moved
        return bool(is_closed) and not any(self.open_slots())

    # -- what is due --------------------------------------------------------------------------

    def soonest(self) -> int:
        """Return when a block is due, or is to be sampled, as one quick look finds it.

        May be in the past, for what has been taken note of already or is just being left.
        """
        return self._least(self.layout.deadlines, 1)

    def shortest(self) -> int:
        """Return how soon after it is entered again a block of any slot is to be looked at (ns)."""
        return self._least(self.layout.infos + board.AFTER, board.INFO_WORDS)

    def _least(self, first: int, step: int) -> int:
        """Return the least of one value for each slot, less what a slot is looked at earlier."""
        return _least(self.words, first, step, self.layout.leads, self.used)

    def extras(self) -> bytes:
        """Return what is released beyond what the states say, to be compared likewise."""
        first = self.layout.infos + board.EXTRA
        end = first + self.used * board.INFO_WORDS
        return self.words[first : end : board.INFO_WORDS].tobytes()

    def states(self) -> bytes:
        """Return all states, to be compared with those of another look."""
        layout = self.layout
        return self.words[layout.states : layout.states + self.used].tobytes()

    def look(
        self, now_ns: int, moments: Callable[[int], tuple[int, ...]]
    ) -> tuple[int, list[Slot], list[tuple[Slot, bool]]]:
        """Look at each block that may be due.

        :param moments: how many ns after its start a block of so many ns is to be sampled.
        :returns: when to look again; blocks that have expired since the last look; and those that
            are to be sampled now, with whether they are to be warned of.
        """
        soonest = self.soonest()
        if soonest > now_ns:
            if self.expired or self._due or self._reached:
                self._forget_others(())
            return soonest, [], []
        soonest = NONE
        expired, reached = [], []
        seen = set()
        words, layout = self.words, self.layout
        for number in range(self.used):
            deadline_ns = words[layout.deadlines + number]
            due_ns = deadline_ns - words[layout.leads + number]
            if due_ns > now_ns:
                soonest = min(soonest, due_ns)
                continue
            slot = self.slot(number)
            if slot is None:
                continue
            seen.add(number)
            if self.expired.get(number) == slot.state:
                continue
            if slot.deadline_ns > now_ns:
                again_ns, passed = self._pass(slot, now_ns, moments)
                soonest = min(soonest, again_ns)
                if passed:
                    reached.append((slot, slot.warn_ns in passed))
                continue
            again_ns = self._confirm(slot, now_ns)
            if again_ns > now_ns:
                soonest = min(soonest, again_ns)
            else:
                self.expired[number] = slot.state
                expired.append(slot)
        self._forget_others(seen)
        return soonest, expired, reached

    def _confirm(self, slot: Slot, now_ns: int) -> int:
        """When ``slot`` has been found the same by two looks a moment apart; now, if it has."""
        state, deadline_ns, first_ns = self._due.get(slot.number, (-1, 0, 0))
        if (state, deadline_ns) != (slot.state, slot.deadline_ns):
            self._due[slot.number] = slot.state, slot.deadline_ns, now_ns
            first_ns = now_ns
        return first_ns + MOMENT_NS

    def _pass(
        self, slot: Slot, now_ns: int, moments: Callable[[int], tuple[int, ...]]
    ) -> tuple[int, list[int]]:
        """When to look at ``slot`` next, and which moments have passed since the last look."""
        offsets = set(moments(slot.after_ns))
        if slot.warn_ns:
            offsets.add(slot.warn_ns)
        elapsed = now_ns - slot.acquired_ns
        state, until = self._reached.get(slot.number, (slot.state, 0))
        if state != slot.state:
            until = 0
        passed = [offset for offset in offsets if until < offset <= elapsed]
        self._reached[slot.number] = slot.state, elapsed
        later = min((offset for offset in offsets if offset > elapsed), default=slot.after_ns)
        return slot.acquired_ns + min(later, slot.after_ns), passed

    def _forget_others(self, seen: set[int] | tuple[()]) -> None:
        for known in (self.expired, self._due, self._reached):
            for number in [number for number in known if number not in seen]:
                del known[number]

    # -- slots --------------------------------------------------------------------------------

    def is_open(self, number: int, state: int) -> bool:
        """Whether the block that made ``state`` is open, and has not been restarted."""
        is_same = self.words[self.layout.states + number] == state
        return is_same and bool(state & DEPTH) and self.ignored.get(number) != state

    def slot(self, number: int) -> Slot | None:
        """Return the open block of a slot; None when there is none, or nothing that can be one."""
        words, layout = self.words, self.layout
        state = words[layout.states + number]
        if not state & DEPTH or state < 0 or self.ignored.get(number) == state:
            return None
        info = self.row(layout.infos, number, board.INFO_WORDS)
        deadline_ns = words[layout.deadlines + number]
        after_ns = min(max(0, info[board.AFTER]), _MOST_NS)
        scope = self.scope(number)
        if scope is None or not 0 < deadline_ns < NONE or words[layout.states + number] != state:
            return None
        acquired_ns = deadline_ns - after_ns
        started_ns = info[board.STARTED]
        if not 0 < started_ns <= acquired_ns:
            started_ns = acquired_ns
        signal = info[board.SIGNAL]
        thread = info[board.THREAD]
        return Slot(
            number,
            state,
            scope,
            thread if 0 < thread < 1 << 31 else 0,
            signal if -_MAX_SIGNAL <= signal <= _MAX_SIGNAL else 0,
            deadline_ns,
            after_ns,
            started_ns,
            info[board.WARN] if 0 < info[board.WARN] < after_ns else 0,
        )

    def open_slots(self) -> Iterator[Slot]:
        """Every block that is open."""
        layout, used = self.layout, self.used
        states = self.words[layout.states : layout.states + used].tolist()
        for number, state in enumerate(states):
            if state & DEPTH and (slot := self.slot(number)) is not None:
                yield slot

    def scope(self, number: int) -> str | None:
        """Return the scope of a slot; None when it is not complete, or no text."""
        known = self._scopes.get(number)
        if known is not None:
            return known
        at = self.layout.infos + number * board.INFO_WORDS
        start, length = self.words[at + board.NAME_AT], self.words[at + board.NAME_LENGTH] - 1
        if not (0 <= length <= _MOST_NAME_BYTES and 0 <= start <= self.layout.name_bytes - length):
            return None
        begin = self.layout.names + start
        name = self._memory[begin : begin + length].decode("utf-8", "backslashreplace")
        self._scopes[number] = name
        return name

    def row(self, start: int, number: int, width: int) -> list[int]:
        """Return the words of a slot in a section of the board with rows."""
        at = start + number * width
        found: list[int] = self.words[at : at + width].tolist()
        return found


def least(words: memoryview, first: int, step: int, leads: int, count: int) -> int:
    """Return the least of one value for each slot, less its lead.

    :param first: where the first value is; each next one is ``step`` words further.
    :param leads: where the first lead is; the others follow.
    """
    # As lists: a memoryview takes twice as long to give out one number after the other.
    values = words[first : first + count * step : step].tolist()
    return min(map(sub, values, words[leads : leads + count].tolist()), default=NONE)


_least = least_in_c() or least


def _map(fd: int) -> mmap.mmap:
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise BadBoardError(f"it is no memfd: {error}") from None
    if seals & _SEALS != _SEALS:
        raise BadBoardError(f"its size is not sealed (seals {seals:#x})")
    size = os.fstat(fd).st_size
    if not board.HEADER_WORDS * 8 <= size <= board.Layout(_MOST_SLOTS).size:
        raise BadBoardError(f"it has {size} bytes")
    try:
        return mmap.mmap(fd, size)
    except (OSError, ValueError) as error:
        raise BadBoardError(f"it cannot be mapped: {error}") from None


def _layout(words: memoryview) -> board.Layout:
    if words[board.MAGIC] != board.MAGIC_WORD or words[board.VERSION_WORD] != board.VERSION:
        raise BadBoardError("it does not begin as a board of this version")
    slots = words[board.SLOTS]
    layout = board.Layout(slots if 0 < slots <= _MOST_SLOTS else 1)
    if slots != layout.slots or layout.size != len(words) * 8:
        raise BadBoardError(f"{slots} slots do not fit its {len(words) * 8} bytes")
    return layout
