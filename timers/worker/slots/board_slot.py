"""A slot on the board: nothing is sent for its blocks, the server reads them."""

from __future__ import annotations

import time
import weakref
from bisect import bisect_left
from typing import TYPE_CHECKING, Protocol

from timers.transport import board

from .request import acquire
from .slot import DEPTH, ENTER, NONE, NS, Block, Owner, Slot

if TYPE_CHECKING:
    from ._trace_context import ScopeSpan
    from .board import Board
    from .request import Request

__all__ = ["BoardServer", "BoardSlot"]

_DURATIONS_NS = tuple(int(bound * NS) for bound in board.DURATION_BUCKETS)
_SHORT_NS = _DURATIONS_NS[0]
_BILLION = 1_000_000_000


class BoardServer(Protocol):
    """What the slots of a board ask of the server, by way of their client's channel."""

    board: Board | None
    wants: bool
    """Whether it wants each acquire and release as an event as well."""
    uses: dict[str, int]
    """By scope: how often it was used, up to the end of its warm-up."""

    def attend(self) -> bool:
        """Take note of a server that is new; return :attr:`wants`."""

    def lead(self, after_ns: int) -> int:
        """Return how long before a deadline of ``after_ns`` it wants to look at the block."""

    def wake(self, due_ns: int) -> None:
        """Have it look at the board now, because something is due at ``due_ns``."""

    def send_event(self, request: Request, elapsed_ns: int | None) -> None:
        """Send it what is for logs and spans, or count that as lost where there is no room.

        :param elapsed_ns: None for a block that was entered.
        """


class BoardSlot(Slot):
    """Slot ``number`` of a board.

    :param channel: to the server that reads it.
    :param own: the board.
    """

    __slots__ = ("at_counts", "board", "channel", "number")

    def __init__(
        self, channel: BoardServer, own: Board, number: int, scope: str, thread: int
    ) -> None:
        layout = own.layout
        at = (
            layout.states + number,
            layout.deadlines + number,
            layout.leads + number,
            layout.infos + number * board.INFO_WORDS,
        )
        super().__init__(scope, thread, own.words, at)
        self.channel, self.board, self.number = channel, own, number
        self.at_counts = layout.counts + number * board.COUNT_WORDS
        self.at_short = self.at_counts + board.SHORT_NS

    def __del__(self) -> None:
        # Its thread has ended, or had too many. With a block open it stays as it is: whoever left
        # a block to a thread that has ended is watched until the deadline.
        try:  # when the interpreter ends, contextlib may be gone before this is
            if self.channel.board is self.board and not self.is_needed:
                self.board.give_back(self.scope, self.number)
        except AttributeError:  # interrupted while it was made
            pass

    # -- blocks -------------------------------------------------------------------------------

    def enter(self, owner: Owner, after: float, warn_after: float | None) -> None:
        """Open a block of ``owner``, as :meth:`Slot.enter` does."""
        channel = self.channel
        channel.attend()
        if warn_after is None and not channel.wants:
            self.prepare(after)
            if self.enter_plain(owner, after):
                return
        super().enter(owner, after, warn_after)

    def prepare(self, after: float) -> None:
        """Set what is the same for each plain block of ``after`` seconds."""
        info = self.at_info
        after_ns = int(after * NS)
        lead = self.channel.lead(after_ns)
        short_after = self.view[info + board.SHORT_AFTER]
        limit = 0
        if self.channel.uses.get(self.scope, 0) >= board.WARM_UP_USES and after_ns:
            if not short_after:
                self.view[info + board.SHORT_AFTER] = short_after = after_ns
            if short_after == after_ns:
                limit = min(_SHORT_NS, int(after_ns * board.RATIO_BUCKETS[0]))
        none: dict[int, Block] = {}
        view, info = self.view, self.at_info  # one step from here
        if view[self.at_state] & DEPTH:
            return
        self.top, self.blocks = None, none  # an interrupt may have left something
        view[info + board.AFTER], view[info + board.STARTED] = after_ns, 0
        view[info + board.WARN], self.after_ns = 0, after_ns
        view[self.at_lead] = lead
        self.lead, self.limit, self.plain_after = lead, limit, after
        self.after = after

    def enter_plain(self, owner: Owner, after: float) -> bool:
        """Open a plain block; what ``expires`` does by itself once :attr:`after` is set."""
        guard = weakref.ref(owner, self.guarded)
        deadline_ns = time.monotonic_ns() + self.after_ns
        view, at = self.view, self.at_state  # one step from here
        state = view[at]
        if state & DEPTH or self.after != after or owner._ticket is not None:
            return False
        owner._ticket, self.guard, view[self.at_deadline] = state + ENTER, guard, deadline_ns
        # fmt: off
        view[at] = state + ENTER; owner._slot = self  # noqa: E702  # one line: see .slot
        # fmt: on
        if deadline_ns - self.lead < view[board.LOOK]:
            self.wake(deadline_ns)
        return True

    def mend(self) -> None:
        """Have the server look in time at what goes on, too."""
        super().mend()
        if (around := self.top) is not None and around.ticket:
            self._wake_for(around)

    def wake(self, deadline_ns: int) -> None:
        """Have the server look, which would be too late otherwise."""
        if self.channel.attend():
            self.unfold()  # for a server that wants to hear of each block
            if (block := self.top) is not None:
                self.opened(block)
            return
        self.channel.wake(deadline_ns - self.lead)

    # -- what follows -------------------------------------------------------------------------

    def reserve_span(self) -> ScopeSpan | None:
        """Reserve a span for a server that exports it."""
        return super().reserve_span() if self.channel.wants else None

    def lead_of(self, block: Block) -> int:
        """How long before its deadline a block is to be sampled, or warned of."""
        lead = self.channel.lead(block.after_ns)
        return max(lead, block.after_ns - block.warn_ns) if block.warn_ns else lead

    def _wake_for(self, block: Block) -> None:
        if (due_ns := block.deadline_ns - block.lead) < self.view[board.LOOK]:
            self.channel.wake(due_ns)

    def opened(self, block: Block) -> None:
        """Have the server look in time, and send it what it wants to hear."""
        self._wake_for(block)
        if self.channel.wants:
            self.channel.send_event(acquire(self, block), None)

    def closed(self, block: Block | None, elapsed_ns: int, used_ns: int, error: str | None) -> None:
        """Count the block."""
        after_ns = self.after_ns if block is None else block.after_ns
        self.count(elapsed_ns, used_ns, after_ns)
        if block is None:
            return
        if (around := self.top) is not None:
            self._wake_for(around)
        if self.channel.wants:
            self.channel.send_event(acquire(self, block, error=error), elapsed_ns)
        self.end_span(block)

    def released(self, was_open: bool, elapsed_ns: int, used_ns: int) -> None:
        """Count what was open; a release of nothing is a release all the same."""
        if not was_open:
            self.view[self.at_counts + board.UNTIMED] += 1
            return
        after_ns = self.view[self.at_info + board.AFTER]
        self.count(elapsed_ns, used_ns, after_ns)
        if self.channel.wants:
            timer = Block(after_ns / NS, None, None)
            self.channel.send_event(acquire(self, timer), elapsed_ns)

    # -- statistics ---------------------------------------------------------------------------

    def count(self, elapsed_ns: int, used_ns: int, after_ns: int) -> None:
        """Count a block by how long it took, and by which share of its deadline."""
        view, at = self.view, self.at_counts
        bucket = bisect_left(_DURATIONS_NS, elapsed_ns)
        view[at + board.DURATION_NS] += elapsed_ns
        if bucket:
            view[at + board.DURATIONS + bucket] += 1
        if after_ns:
            share = used_ns / after_ns
            bucket_of_share = bisect_left(board.RATIO_BUCKETS, share)
            view[at + board.RATIO_SUM] += min(int(share * _BILLION), _MOST_SHARE)
            if bucket_of_share:
                view[at + board.RATIOS + bucket_of_share] += 1
        else:
            view[at + board.UNRATED] += 1
        uses = self.channel.uses
        used = uses.get(self.scope, 0)
        if used < board.WARM_UP_USES:
            uses[self.scope] = used + 1
            self.after = None  # to be prepared anew
            view[at + board.WARM_UPS + bucket] += 1
            view[at + board.WARM_UP_NS] += elapsed_ns
            longest = at + board.LONGEST_WARM_UP
        else:
            longest = at + board.LONGEST_STEADY
        view[longest] = max(view[longest], elapsed_ns)

    @property
    def totals(self) -> tuple[int, int]:
        """All acquires and releases so far."""
        state = self.view[self.at_state]
        return state >> 16, board.releases(state, self.view[self.at_info + board.EXTRA])

    def move(self, new: Board) -> None:
        """Move to the board that takes the place of this one, as it stands, under its number."""
        old, words = self.view, new.words
        info, counts = self.at_info, self.at_counts
        info_end, counts_end = info + board.INFO_WORDS, counts + board.COUNT_WORDS
        at, deadline, lead = self.at_state, self.at_deadline, self.at_lead
        if self.board is new:  # one step from here
            return
        words[info:info_end] = old[info:info_end]
        words[counts:counts_end] = old[counts:counts_end]
        words[lead], words[deadline] = old[lead], old[deadline]
        words[at], self.view, self.board = old[at], words, new
        new.add(self.scope, self.number)

    def forget(self) -> None:
        """Have the blocks of the parent's process do nothing in a forked child."""
        self.at_state, self.at_deadline, self.at_lead, self.at_info = 0, 1, 2, 3
        self.at_short = 3
        self.view = [0, NONE, 0, *[0] * board.INFO_WORDS]
        self.blocks, self.top, self.guard, self.after = {}, None, None, None


_MOST_SHARE = 1_000_000 * _BILLION
"""A block of a nanosecond that hangs for a day would fill the sum."""
