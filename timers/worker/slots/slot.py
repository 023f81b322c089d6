"""One scope in one thread: which of its blocks are open, decided by one word.

Whatever interrupts a worker (a signal handler that raises, an exception that another thread set, a
debugger) may do so between any two bytecodes. So a block is opened by one store and closed by one
store, into the slot's *state* (:mod:`timers.transport.board`): ``acquires << 16 | depth``. All that
follows from it (the message, the statistics, what is remembered of blocks around blocks) can be
made up for later. Whoever comes next does: the handler of the exception in ``expires`` itself
(:meth:`Slot.finish`), the next block of the scope, or the end of the block object, which
:attr:`Slot.guard` notices.

There is no lock. A slot is written by its own thread, but for a block that another thread leaves,
and by handlers and finalizers that interrupt that thread. CPython switches threads, runs handlers
and raises foreign exceptions only at calls and at backward jumps (``CHECK_EVAL_BREAKER``), so a run
of statements without either is one step for all of them. Such a run begins below where it says
``one step``. Where two stores belong together they are one statement, on one line, for the sake of
debuggers, which interrupt at lines. What describes the blocks is stored in such an order that
:meth:`Slot.close` and :meth:`Slot.mend` can see from it where it ends.
Storing an attribute ends the object that was there: where that may run code of ours (the end of a
slot does), it comes last.

Most blocks are *plain*: not inside a block of the same scope and thread. Of a plain one nothing is
kept but its ticket, the state that its entry made: as long as the slot is in that state, nothing
has happened since. Blocks around blocks are kept in :attr:`Slot.blocks`.
"""

from __future__ import annotations

import logging
import sys
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from . import _trace_context as trace_context

if TYPE_CHECKING:
    from ._trace_context import ScopeSpan

__all__ = [
    "AFTER",
    "BEYOND",
    "DEPTH",
    "ENTER",
    "EXTRA",
    "NONE",
    "NS",
    "Block",
    "Owner",
    "Slot",
    "TakenError",
]

_logger = logging.getLogger(__name__)
NS: Final = 1_000_000_000
NONE: Final = 2**63 - 1
DEPTH: Final = 0xFFFF
ACQUIRE: Final = 0x10000
ENTER: Final = 0x10001
MAX_DEPTH: Final = 10_000
"""These are :mod:`timers.transport.board`'s, which a worker without a socket does not load."""
BEYOND: Final = 0
"""The ticket of a block inside as many others as may be: counted, and otherwise ignored."""

_TRACE = "opentelemetry.trace"
"""Nobody traces unless this has been imported."""

# Of the words that describe a block, as on a board.
AFTER, STARTED, WARN, EXTRA = range(4)


class Owner(Protocol):
    """Who enters and leaves a block: ``expires``. The end of the object is the end of its block."""

    _slot: Slot
    _ticket: int | None


class TakenError(Exception):
    """Another thread has entered the same object meanwhile."""


class Block:
    """An open block of a slot in which, or around which, there is another one."""

    __slots__ = (
        "after",
        "after_ns",
        "deadline_ns",
        "guard",
        "lead",
        "outer",
        "span",
        "started_ns",
        "ticket",
        "wall_ns",
        "warn_ns",
    )

    def __init__(self, after: float, warn_after: float | None, span: ScopeSpan | None) -> None:
        self.after = after
        self.after_ns = int(after * NS)
        self.warn_ns = 0 if warn_after is None else int(warn_after * NS)
        self.span = span
        self.lead = 0
        """How long before the deadline the server wants to look at it."""
        self.deadline_ns = 0
        self.wall_ns = 0
        """The deadline on the clock on the wall, where messages say that."""
        self.started_ns = 0
        self.ticket = 0
        """The state that its entry made; 0 when it is not open."""
        self.outer: Block | None = None
        """The block around it, perhaps closed meanwhile."""
        self.guard: Any = None

    @property
    def warn_after(self) -> float | None:
        """Seconds after which to warn; None for never."""
        return self.warn_ns / NS if self.warn_ns else None


class Slot:
    """The blocks of one scope in one thread, for one client.

    :param scope: the scope.
    :param thread: native id of the thread.
    :param view: where the words are: a board's, or a list.
    :param at: where in it the state, the deadline, the lead and the words that describe a block
        are.
    """

    __slots__ = (
        "__weakref__",
        "after",
        "after_ns",
        "at_deadline",
        "at_info",
        "at_lead",
        "at_short",
        "at_state",
        "blocks",
        "guard",
        "guarded",
        "held",
        "lead",
        "limit",
        "plain_after",
        "scope",
        "thread",
        "top",
        "view",
    )

    def __init__(self, scope: str, thread: int, view: Any, at: tuple[int, int, int, int]) -> None:
        self.scope = scope
        self.thread = thread
        self.view = view
        self.at_state, self.at_deadline, self.at_lead, self.at_info = at
        self.at_short = 0
        self.after: float | None = None
        """Seconds of the countdown that all is prepared for, so that ``expires`` may enter a plain
        block by itself; None when :meth:`enter` has to."""
        self.plain_after = 0.0
        self.after_ns = 0
        """Of the plain block that is open, or would be next."""
        self.lead = 0
        """How long before the deadline of such a block the server wants to look at it."""
        self.limit = 0
        """Nanoseconds below which such a block is counted by a single store."""
        self.guard: weakref.ref[Owner] | None = None
        """Refers to the owner of the plain block that is open: calls :meth:`end` when that is gone
        without having left it."""
        self.guarded = partial(_heal, weakref.ref(self))
        self.blocks: dict[int, Block] = {}
        """Blocks around and inside blocks, by ticket; closed ones may be among them."""
        self.top: Block | None = None
        """The innermost of these."""
        self.held = 0
        """The state after an acquire that no block made; 0 when there was none."""

    # -- blocks of ``expires`` ----------------------------------------------------------------

    def enter(self, owner: Owner, after: float, warn_after: float | None) -> None:
        """Open a block of ``owner``. What it raises, it raises with the block not open.

        :raises TakenError: ``owner`` is in a block by now.
        """
        block = Block(after, warn_after, self.reserve_span())
        try:
            block.lead = self.lead_of(block)
            block.guard = weakref.ref(owner, self.guarded)
            self.unfold()
            while not self.open(owner, block, time.monotonic_ns(), time.time_ns()):
                self.unfold()
            self.opened(block)
        except BaseException:
            self.abandon(block)
            self.end_span(block)
            raise

    def unfold(self) -> None:
        """Make a plain block that is open one of :attr:`blocks`; forget closed ones on top."""
        while (top := self.top) is not None and not top.ticket:
            self.top = top.outer
        around = Block(0.0, None, None)
        guard = self.guard
        owner = None if guard is None else guard()
        wall_offset = time.time_ns() - time.monotonic_ns()
        state = self.view[self.at_state]  # one step from here
        if state & DEPTH and self.top is None and state != self.held and self.guard is guard:
            if owner is not None and owner._ticket == state:
                owner._ticket = -state  # no short cut from now on
            deadline_ns = self.view[self.at_deadline]
            around.after, around.after_ns = self.plain_after, self.after_ns
            around.lead = self.lead
            around.deadline_ns, around.wall_ns = deadline_ns, deadline_ns + wall_offset
            around.started_ns = deadline_ns - self.after_ns
            around.guard, self.after = guard, None
            around.ticket, self.blocks[state] = state, around
            self.top, self.guard = around, None

    def open(self, owner: Owner, block: Block, now: int, wall: int) -> bool:
        """Make ``block`` the innermost one; False when there is something to :meth:`unfold`."""
        view, at, deadline, info = self.view, self.at_state, self.at_deadline, self.at_info
        block.started_ns = now
        block.deadline_ns, block.wall_ns = now + block.after_ns, wall + block.after_ns
        if owner._ticket is not None:  # one step from here
            raise TakenError
        state = view[at]
        if state == self.held and state & DEPTH:
            # Torch's rule: a timer that is acquired again is the same timer.
            state = state - 1
            view[info + EXTRA], view[at] = view[info + EXTRA] - 1, state
        outer = self.top
        if not state & DEPTH:
            outer = None
        elif outer is None or not outer.ticket:
            return False
        elif state & DEPTH >= MAX_DEPTH:
            owner._ticket = BEYOND
            view[info + EXTRA], view[at] = view[info + EXTRA] - 1, state + ACQUIRE
            owner._slot = self
            return True
        ticket = state + ENTER
        owner._ticket = -ticket  # for :meth:`leave`, not for its short cut
        block.outer, self.blocks[ticket], self.after = outer, block, None
        view[info + AFTER], view[info + STARTED] = block.after_ns, now
        view[self.at_lead] = block.lead
        view[info + WARN], view[deadline] = block.warn_ns, block.deadline_ns
        # fmt: off
        block.ticket, self.top, view[at] = ticket, block, ticket; owner._slot = self  # noqa: E702  # one line
        # fmt: on
        return True

    def leave(self, ticket: int, error: str | None) -> bool:
        """Close the block with ``ticket``, negative for one of :attr:`blocks`.

        Returns whether it was open.

        :param error: type name of the exception that leaves it.
        """
        if ticket == BEYOND:
            at = self.at_info + EXTRA  # one step from here
            self.view[at] = self.view[at] + 1
            return True
        ticket = abs(ticket)
        now = time.monotonic_ns()
        view, at, block = self.view, self.at_state, None  # one step from here
        if ticket in self.blocks:
            block = self.blocks[ticket]
        elif view[at] == ticket:
            elapsed = now - view[self.at_deadline] + self.after_ns
            view[at], self.guard = ticket - 1, None
            view[self.at_deadline] = NONE
        else:
            return False  # closed already, or by the process that this one is a fork of
        if block is not None:
            return self.close(block, error)
        self.closed(None, elapsed, elapsed, error)
        return True

    def close(self, block: Block, error: str | None) -> bool:
        """Close one of :attr:`blocks`; if it was the innermost, restart the one around it.

        Returns whether it was open.
        """
        while True:
            outer = block.outer
            while outer is not None and not outer.ticket:
                outer = outer.outer
            block.outer = outer
            wall, now = time.time_ns(), time.monotonic_ns()
            ticket = block.ticket  # one step from here
            if outer is None or outer.ticket:
                break
        view, at, deadline, info = self.view, self.at_state, self.at_deadline, self.at_info
        state = view[at]
        if not ticket or not state & DEPTH or state >> 16 < ticket >> 16:
            # It is closed, or its entry was interrupted before the state was stored.
            if self.top is block:
                self.top = outer
            block.ticket, block.guard = 0, None
            self.blocks.pop(ticket, None)
            return False
        state = state - 1
        if self.top is not block:  # tasks that take turns: nothing restarts
            block.ticket, view[at] = 0, state
        elif outer is None:
            block.ticket, view[at], self.top = 0, state, None
        else:
            outer.deadline_ns, outer.wall_ns = now + outer.after_ns, wall + outer.after_ns
            view[info + AFTER], view[info + STARTED] = outer.after_ns, outer.started_ns
            view[self.at_lead] = outer.lead
            view[info + WARN], view[deadline] = outer.warn_ns, outer.deadline_ns
            block.ticket, view[at], self.top = 0, state, outer
        if not state & DEPTH:
            view[deadline] = NONE
        self.blocks.pop(ticket, None)
        block.guard = None
        used_ns = now - block.deadline_ns + block.after_ns
        self.closed(block, now - block.started_ns, used_ns, error)
        return True

    def revert(self, block: Block) -> None:
        """Take back an entry that failed, as if it had never been."""
        outer = block.outer
        while outer is not None and not outer.ticket:
            outer = outer.outer
        view, at, info = self.view, self.at_state, self.at_info
        ticket = block.ticket  # one step from here
        if not ticket or view[at] != ticket or not (outer is None or outer.ticket):
            self.close(block, None)
            return
        deadline_ns = NONE
        if outer is not None:
            deadline_ns = outer.deadline_ns
            view[info + AFTER], view[info + STARTED] = outer.after_ns, outer.started_ns
            view[info + WARN], view[self.at_lead] = outer.warn_ns, outer.lead
        block.ticket, view[at], self.top = 0, ticket - ENTER, outer
        view[self.at_deadline] = deadline_ns
        self.blocks.pop(ticket, None)
        block.guard = None

    # -- what an interrupt leaves behind ------------------------------------------------------

    def finish(self, ticket: int) -> None:
        """Close the block with ``ticket``, whose entry or end was interrupted."""
        self.leave(ticket, None)
        self.mend()

    def mend(self) -> None:
        """Have the state agree with the blocks: a block is closed before the state says so."""
        state, top = self.view[self.at_state], self.top
        block, still_open = top, 0
        while block is not None:
            still_open += bool(block.ticket)
            block = block.outer
        view, at = self.view, self.at_state  # one step from here
        if top is not None and self.top is top and view[at] == state:
            if state & DEPTH > still_open:
                view[at] = state - (state & DEPTH) + still_open
            if not still_open:
                view[self.at_deadline], self.top = NONE, None

    def heal(self, guard: weakref.ref[Owner]) -> None:
        """Close the block whose owner is gone without having left it."""
        if self.guard is guard:
            state = self.view[self.at_state]
            if state & DEPTH and self.top is None and state != self.held:
                self.finish(state)
            return
        for block in list(self.blocks.values()):
            if block.guard is guard:
                self.finish(block.ticket)

    # -- timers of whoever calls the client itself --------------------------------------------

    def hold(self, timer: Block) -> None:
        """Start the timer, or restart whatever is open. What it raises, it raises undone."""
        self.unfold()
        timer.lead = self.lead_of(timer)
        view, at, info = self.view, self.at_state, self.at_info  # one step from here
        held = self.held
        state = view[at]
        self.after = None
        extra = view[info + EXTRA]
        view[info + AFTER], view[info + WARN] = timer.after_ns, 0
        view[self.at_lead] = timer.lead
        view[self.at_deadline] = timer.deadline_ns
        if not state & DEPTH:
            view[info + STARTED], self.top = timer.started_ns, None
            self.held, view[at] = state + ENTER, state + ENTER
        elif state == self.held:
            self.held = state + ACQUIRE
            view[info + EXTRA], view[at] = extra - 1, state + ACQUIRE
        else:
            if (top := self.top) is not None:
                top.after, top.after_ns, top.lead = timer.after, timer.after_ns, timer.lead
                top.deadline_ns, top.wall_ns, top.warn_ns = timer.deadline_ns, timer.wall_ns, 0
            view[info + EXTRA], view[at] = extra - 1, state + ACQUIRE
        try:
            self.opened(timer)
        except Exception:
            if view[at] >> 16 == (state >> 16) + 1:  # nothing has happened since
                self.held, view[info + EXTRA], view[at] = held, extra, state
            raise

    def drop(self) -> None:
        """Stop the timer, and close every block: what ``client.release`` is for."""
        self.unfold()
        none: dict[int, Block] = {}
        now = time.monotonic_ns()
        view, at, info = self.view, self.at_state, self.at_info  # one step from here
        state = view[at]
        depth = state & DEPTH
        dropped = self.blocks
        elapsed = now - (view[info + STARTED] if self.top is None else self.top.started_ns)
        used_ns = now - view[self.at_deadline] + view[info + AFTER]
        extra = view[info + EXTRA] + 1 - depth
        view[info + EXTRA], view[at] = extra, state - depth
        self.blocks, self.top = none, None
        view[self.at_deadline] = NONE
        for block in dropped.values():
            block.ticket, block.guard = 0, None
            self.end_span(block)
        self.released(depth > 0, elapsed, used_ns)

    # -- what follows; see the subclasses ---------------------------------------

    def reserve_span(self) -> ScopeSpan | None:
        """Reserve the span of a block, for a worker that traces."""
        return trace_context.enter() if _TRACE in sys.modules else None

    def lead_of(self, block: Block) -> int:
        """How long before the deadline of ``block`` the server wants to look at it (ns)."""
        return 0

    def end_span(self, block: Block) -> None:
        """End the validity of what :meth:`reserve_span` reserved."""
        span, block.span = block.span, None
        if span is not None:
            trace_context.leave(span)

    def abandon(self, block: Block) -> None:
        """Close a block whose entry was interrupted, or failed."""
        self.close(block, None)

    def opened(self, block: Block) -> None:
        """Follow up on a block that was opened, or a timer that was started or restarted.

        What it raises, whoever entered the block, or acquired the timer, is raised.
        """
        raise NotImplementedError

    def closed(self, block: Block | None, elapsed_ns: int, used_ns: int, error: str | None) -> None:
        """Follow up on a block that was closed.

        :param block: None for a plain one.
        :param elapsed_ns: how long it took.
        :param used_ns: the same since its countdown was last restarted.
        :param error: type name of the exception that left it.
        """
        raise NotImplementedError

    @property
    def is_needed(self) -> bool:
        """Whether a block is open, or something is left to be sent."""
        return bool(self.view[self.at_state] & DEPTH)

    def released(self, was_open: bool, elapsed_ns: int, used_ns: int) -> None:
        """Follow up on a timer that was released."""
        raise NotImplementedError


def _heal(slot: weakref.ref[Slot], guard: weakref.ref[Owner]) -> None:
    found = slot()
    if found is None or sys.is_finalizing():
        return  # a process that ends inside of its blocks is one that does
    try:
        found.heal(guard)
    except Exception as failure:  # noqa: BLE001  # whatever a client raises: nobody could catch it
        _logger.warning(
            "could not release the timer of scope %r, whose block object is gone: %s: %s",
            found.scope,
            type(failure).__name__,
            failure,
        )
    except BaseException:  # an interrupt, which nobody could catch either
        found.heal(guard)
        raise
