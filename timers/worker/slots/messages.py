"""Slots whose server is sent messages, and the channel that these travel over.

A message says what has just happened, or (``missed``) how a slot stands and how many acquires and
releases led there that nothing was sent of. Nothing is queued: what a server has not been sent is
the difference between how a slot stands and what was sent of it, so that a server that reads
nothing costs no memory, and a message that an interrupt has eaten is made up for by the next one.

Over the pipe and the socket, where one call into C sends a message, each acquire and release is
counted once, whatever comes in between. Over a queue sending is a call of Python's: of one that was
interrupted nobody knows whether it was sent. It is taken for sent, so that the server may count one
acquire or release too few, and how its slot stands is sent right afterwards, so that no timer is
left running and none is missing. What an interrupted call of a client of somebody's own has done
only that client knows: it is taken for done.
"""

from __future__ import annotations

import abc
import contextlib
import sys
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from timers.forks import reset_in_child
from timers.living import Living
from timers.transport.receipt import OvertakenError, Unnoted, is_of_system

from .request import Request, acquire
from .slot import AFTER, DEPTH, ENTER, EXTRA, NONE, NS, Block, Owner, Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from timers.transport.receipt import Receipt

__all__ = ["Channel", "MessageSlot"]

T = TypeVar("T")

_NOTHING = (0, 0)
"""Acquires and releases of a slot that nothing was sent of."""
_WORDS = (0, NONE, 0, 0, 0, 0, 0)
"""State, deadline, lead, and what describes the block."""
_INFO = 3
_SLICE_SECONDS = 0.01
_EXIT_SECONDS = 10.0
"""How long a process that ends waits for a server that is stopped. What it is sent then counts."""
_WITHOUT_THREAD_SECONDS = 0.1
"""How long each call waits for a server that is stopped, when no thread can be had to go on. One
that goes on reads at once; every call has to, for the last one may be followed by none."""
_MOST_UNSENT = 4096
"""Slots that a server may have missed something of. Beyond that the counts of those that it knows
nothing of are given up, a worker that puts numbers into its scopes would run out of memory."""
_NO_LOCK = contextlib.nullcontext()


class MessageSlot(Slot):
    """A slot that sends a message for each change.

    :param channel: what it sends them over.
    """

    __slots__ = ("before", "channel", "sent")

    def __init__(self, channel: Channel, scope: str, thread: int) -> None:
        super().__init__(scope, thread, list(_WORDS), (0, 1, 2, 3))
        self.channel = channel
        self.sent = _NOTHING
        """Acquires and releases that the server has been sent, or need not be sent."""
        self.before = _NOTHING
        """The same when it was last decided what to send."""
        channel.slots.add(self)

    @property
    def totals(self) -> tuple[int, int]:
        """All acquires and releases so far."""
        state, extra = self.view[0], self.view[_INFO + EXTRA]
        acquires = state >> 16
        return acquires, acquires - (state & DEPTH) + extra

    def standing(self, missed: tuple[int, int]) -> Iterator[Request]:
        """How it stands, as requests: each open block, the outermost first, or a release."""
        if not self.view[0] & DEPTH:
            yield Request(self.thread, self.scope, -1, missed=missed)
            return
        blocks = sorted(
            (block for block in list(self.blocks.values()) if block.ticket),
            key=lambda block: block.ticket,
        )
        if self.top is None:  # a plain block, or somebody's own timer
            deadline_ns, after_ns = self.view[1], self.view[_INFO + AFTER] or self.after_ns
            plain = Block(after_ns / NS, None, None)
            plain.deadline_ns = deadline_ns
            plain.wall_ns = time.time_ns() - time.monotonic_ns() + deadline_ns
            blocks = [plain]
        for index, block in enumerate(blocks):
            its_missed = missed if block is blocks[-1] else (0, 0)
            yield acquire(self, block, nested=index > 0, missed=its_missed)

    # -- plain blocks, by as little as possible ------------------------------------------------

    def enter(self, owner: Owner, after: float, warn_after: float | None) -> None:
        """Open a block of ``owner``, as :meth:`Slot.enter` does."""
        channel, view, sent = self.channel, self.view, self.sent
        state = view[0]
        if (
            state & DEPTH
            or sent != (state >> 16, (state >> 16) + view[_INFO + EXTRA])
            or warn_after is not None
            or channel.unsent
            or channel.raw is None
            or "opentelemetry.trace" in sys.modules
        ):
            super().enter(owner, after, warn_after)
            return
        after_ns = int(after * NS)
        none: dict[int, Block] = {} if self.blocks else self.blocks
        guard = weakref.ref(owner, self.guarded)
        wall_ns = time.time_ns() + after_ns
        deadline_ns = time.monotonic_ns() + after_ns
        line = channel.acquire_line(self, after, wall_ns, deadline_ns)
        now_sent = (sent[0] + 1, sent[1])
        raw = channel.raw
        is_as_before = view[0] == state and self.sent is sent  # one step from here
        if not is_as_before or raw is None or owner._ticket is not None:
            super().enter(owner, after, warn_after)
            return
        self.top, self.blocks = None, none  # an interrupt may have left something
        self.plain_after, self.after_ns = after, after_ns
        owner._ticket, self.guard, view[1] = -(state + ENTER), guard, deadline_ns
        # fmt: off
        view[0] = state + ENTER; owner._slot = self  # noqa: E702  # one line: see .slot
        # fmt: on
        try:
            # fmt: off
            self.sent = now_sent; raw(line)  # noqa: E702  # one line: see .slot
        # fmt: on
        except OSError as error:
            self.sent = sent  # one step from the call: what interrupts finds it as it was
            if not is_of_system(error):
                self.sent = now_sent
                raise
            self._open_again()

    def _open_again(self) -> None:
        """Send by other means that a plain block was opened."""
        self.unfold()
        block = self.top
        if block is None:
            return
        try:
            self.opened(block)
        except BaseException:
            self.abandon(block)
            raise

    def leave(self, ticket: int, error: str | None) -> bool:
        """Close a block, as :meth:`Slot.leave` does."""
        channel, view, sent = self.channel, self.view, self.sent
        if error is None and channel.raw is not None and not channel.unsent and self.top is None:
            line = channel.release_line(self)
            raw = channel.raw
            acquires, releases = sent
            now_sent = acquires, releases + 1
            state = view[0]  # one step from here
            was_sent = state >> 16 == acquires and releases == acquires - 1 + view[_INFO + EXTRA]
            is_as_before = state == -ticket and self.top is None and self.sent is sent
            if is_as_before and was_sent and raw is not None:
                view[0], self.guard = state - 1, None
                view[1] = NONE
                try:
                    # fmt: off
                    self.sent = now_sent; raw(line)  # noqa: E702  # one line
                # fmt: on
                except OSError as failure:
                    self.sent = sent  # likewise
                    if not is_of_system(failure):
                        self.sent = now_sent
                        raise
                    self.closed(None, 0, 0, None)
                return True
        if super().leave(ticket, error):
            return True
        self.channel.send_standing(self)  # what an interrupt has kept from being sent, if anything
        return False

    def mend(self) -> None:
        """Send what an interrupt has kept from being sent, too."""
        super().mend()
        self.channel.send_standing(self)

    # -- what follows -------------------------------------------------------------------------

    def opened(self, block: Block) -> None:
        """Send an acquire."""
        self.channel.send(self, acquire(self, block, nested=block.outer is not None))

    def abandon(self, block: Block) -> None:
        """Take back an entry that was not sent; close one that was."""
        if self.sent[0] < self.view[0] >> 16:
            self.revert(block)
        else:
            self.close(block, None)

    def closed(self, block: Block | None, elapsed_ns: int, used_ns: int, error: str | None) -> None:
        """Send a release, or that the block around goes on."""
        if block is not None:
            self.end_span(block)
        if (around := self.top) is None:
            request = Request(self.thread, self.scope, -1, error=error)
        else:
            request = acquire(self, around, leave=True, error=error)._replace(span=None)
        self.channel.send(self, request)

    def released(self, was_open: bool, elapsed_ns: int, used_ns: int) -> None:
        """Send a release of somebody's own."""
        self.channel.send(self, Request(self.thread, self.scope, -1))

    @property
    def is_needed(self) -> bool:
        """Whether a block is open, or something is left to be sent."""
        return super().is_needed or self.sent != self.totals

    def forget(self) -> None:
        """Have the blocks of the parent's process do nothing in a forked child."""
        self.view, self.sent = list(_WORDS), _NOTHING
        self.blocks, self.top, self.guard = {}, None, None


class Channel(abc.ABC):
    """How the messages of one client reach its server.

    :param on_failure: is given what is raised when they cannot; None has it raised.
    :param full_timeout: seconds that calls wait, all together, for a server that reads nothing.

    Safe from several threads, signal handlers and finalizers.
    """

    def __init__(
        self, on_failure: Callable[[Exception], None] | None, full_timeout: float = 1.0
    ) -> None:
        self.slots: Living[MessageSlot] = Living()
        self.unsent: dict[MessageSlot, None] = {}
        """Slots that stand otherwise than the server was sent, for want of room."""
        self.raw: Callable[[bytes], Any] | None = None
        """Writes a line by one system call and nothing else; None when there is no such thing."""
        self._on_failure = on_failure
        self._full_timeout = full_timeout
        self._reset()
        reset_in_child(self)

    def _reset(self) -> None:
        self._patience = self._full_timeout
        """For how long the server is still waited for, unless it reads something."""
        self._lock = threading.RLock()
        self._catching_up = False
        self._most_unsent = _MOST_UNSENT
        self._sender: threading.Thread | None = None
        self._standby: threading.Event | None = None
        """Has the thread of :meth:`prepare` go on, which was started while there were some."""

    # -- of each transport --------------------------------------------------------------------

    @abc.abstractmethod
    def write(self, request: Request, receipt: Receipt, totals: tuple[int, int]) -> None:
        """Send one request, connecting first where that is needed.

        Stores ``receipt.sent = totals`` on the line that sends it, by one call into C if the
        transport has one: then what interrupts finds both done or neither.

        :raises BlockingIOError: there is no room.
        :raises Exception: there is nobody to send it to.
        """

    def acquire_line(
        self, slot: MessageSlot, after: float, wall_ns: int, deadline_ns: int
    ) -> bytes:
        """Return what says that a plain block was entered, for :attr:`raw`, which it may unset."""
        raise NotImplementedError

    def release_line(self, slot: MessageSlot) -> bytes:
        """Return what says that it was left, for :attr:`raw`, which it may unset."""
        raise NotImplementedError

    def wait_for_room(self, seconds: float) -> bool:
        """Wait until there is room, at most ``seconds``; False when nobody reads any more."""
        raise NotImplementedError

    def is_failure(self, error: Exception) -> bool:
        """Whether the transport raised ``error``, and not a handler that came in between."""
        return is_of_system(error)

    def turn(self) -> contextlib.AbstractContextManager[object]:
        """Return the lock that is held while anything is sent, for :meth:`in_turn`.

        A thread that the interpreter has ended may hold it still; then there is no other one.
        """
        # Nothing interrupts between the return of this and the block (BEFORE_WITH of CPython).
        return _NO_LOCK if sys.is_finalizing() else self._lock

    def in_turn(self, function: Callable[[], T]) -> T:
        """Return what ``function`` does while nobody else sends anything."""
        # fmt: off
        with self.turn(): return function()  # noqa: E701  # one line: see .slot
        # fmt: on

    # -- sending ------------------------------------------------------------------------------

    def send(self, slot: MessageSlot, request: Request) -> None:
        """Send what has just happened to ``slot``, and what else there is to catch up with.

        What there is no room for is sent later, by a thread of its own or by the next call.

        :raises Exception: there is nobody to send it to, and ``on_error`` is not "warn".
        """
        before = slot.sent
        leaves = request.is_release or request.leave
        try:
            if not self.in_turn(partial(self._send_just_this, slot, request, leaves=leaves)):
                self._send_later(slot)
        except Exception as error:
            if not self.is_failure(error):
                raise
            self._give_up()
            # An entry that is raised for is taken back.
            slot.sent = slot.totals if leaves else before
            self.fail(error)

    def send_standing(self, slot: MessageSlot) -> None:
        """Send how ``slot`` stands, if the server was sent anything else."""
        if slot.sent == slot.totals and slot not in self.unsent:
            return
        try:
            self._send_later(slot)
        except Exception as error:
            if not self.is_failure(error):
                raise
            self._give_up()
            self.fail(error)

    def _send_just_this(self, slot: MessageSlot, request: Request, *, leaves: bool) -> bool:
        """Send ``request``, if there is room and nothing else to be sent. In turn."""
        while True:
            totals = slot.totals
            sent = slot.before = slot.sent
            if totals == sent:
                return True
            news = (0, 1) if leaves else (1, 0)
            if self.unsent or (totals[0] - sent[0], totals[1] - sent[1]) != news:
                return False
            try:
                self.write(request, slot, totals)
            except OvertakenError:  # by a handler
                continue
            except BlockingIOError as error:
                if not is_of_system(error):
                    raise
                slot.sent = sent
                if not self._wait_patiently():
                    return False
            else:
                self._patience = self._full_timeout  # it reads
                return True

    def _send_later(self, slot: MessageSlot) -> None:
        """Send how ``slot`` stands as soon as that is possible."""
        self.unsent[slot] = None
        if len(self.unsent) > self._most_unsent:
            self._give_up_counts()
        if not self.catch_up() and not self._start_sender():
            self._wait_until_sent()

    def _wait_patiently(self) -> bool:
        """Wait for room for a moment; False when it was waited for long enough."""
        if self._patience <= 0 or sys.is_finalizing():
            return False
        began = time.monotonic()
        somebody_reads = self.wait_for_room(min(self._patience, _SLICE_SECONDS))
        self._patience -= time.monotonic() - began
        return somebody_reads

    def fail(self, error: Exception) -> None:
        """Raise ``error``, or count it. Call it from ``except``."""
        if self._on_failure is None:
            raise error
        self._on_failure(error)

    def _give_up(self) -> None:
        """Send nothing more of what a server missed: all that it knew has died with it."""
        for slot in list(self.unsent):
            self.unsent.pop(slot, None)
            slot.sent = slot.totals

    def _give_up_counts(self) -> None:
        """Give up what is nothing but counts: slots without a block, here or at the server."""
        for slot in list(self.unsent):
            totals = slot.totals
            self.unsent.pop(slot, None)
            if slot.sent == _NOTHING and not slot.view[0] & DEPTH:  # one step from here
                slot.sent = totals
            else:
                self.unsent[slot] = None
        self._most_unsent = max(_MOST_UNSENT, 2 * len(self.unsent))

    def catch_up(self, *, waits: bool = True) -> bool:
        """Send what was not sent yet; return whether all of it was.

        :param waits: whether to wait for room, as long as there is patience left: what this process
            does next may keep its other threads from sending it (a C call that holds the
            interpreter's lock, or a stop).
        """
        is_inner = self._lock._is_owned()  # type: ignore[attr-defined]  # which Condition uses too
        return self.in_turn(partial(self._catch_up, waits, is_inner))

    def _catch_up(self, waits: bool, is_inner: bool) -> bool:
        if is_inner and self._catching_up:
            return True  # by a call further down on this thread's stack
        try:
            self._catching_up = True
            while unsent := list(self.unsent):
                for slot in unsent:
                    while not self._send_how_it_stands(slot):
                        if not waits or not self._wait_patiently():
                            return False
            return True
        finally:
            self._catching_up = False

    def _send_how_it_stands(self, slot: MessageSlot) -> bool:
        """Send that, however it has come about; False when there is no room."""
        totals = slot.totals
        sent = slot.before = slot.sent
        *first, last = slot.standing((totals[0] - sent[0], totals[1] - sent[1]))
        try:
            for request in first:
                self.write(request, Unnoted(), Unnoted.sent)
            self.write(last, slot, totals)
        except OvertakenError:  # by a handler, so that there is something else to be sent
            return True
        except BlockingIOError as error:
            if not is_of_system(error):
                raise
            slot.sent = sent
            return False
        self._patience = self._full_timeout  # it reads
        self.unsent.pop(slot, None)
        if slot.totals != totals:  # by a handler, or by its own thread
            self.unsent[slot] = None
        return True

    # -- by a thread of its own ---------------------------------------------------------------

    def _start_sender(self) -> bool:
        """Have a thread go on sending; False when there can be none."""
        if self._sender is not None and self._sender.is_alive():
            return True
        if sys.is_finalizing():  # a thread that is started now never runs
            return True  # and what is not sent now ends with the process
        # Not a daemon: a process that ends waits for it, for a bounded time.
        sender = threading.Thread(
            target=_keep_sending, args=(weakref.ref(self),), name="timers-sender", daemon=False
        )
        try:
            sender.start()
        except RuntimeError:
            if self._standby is None:
                return False
            self._standby.set()
            return True
        self._sender = sender
        return True

    def prepare(self) -> None:
        """Start a thread for the day when the server is stopped and no thread can be had."""
        if self._standby is None and not sys.is_finalizing():
            standby = threading.Event()
            waiting = threading.Thread(
                target=_stand_by,
                args=(weakref.ref(self), standby),
                name="timers-standby",
                daemon=True,
            )
            with contextlib.suppress(RuntimeError):
                waiting.start()
                self._standby = standby

    def __del__(self) -> None:
        if self._standby is not None:
            self._standby.set()  # to find that there is nothing to send any more

    def _wait_until_sent(self) -> None:
        """Wait in this call, when no thread can be had: nobody else would send it."""
        give_up = time.monotonic() + _WITHOUT_THREAD_SECONDS
        while self.unsent and time.monotonic() < give_up:
            self._patience = max(self._patience, _SLICE_SECONDS)
            self.catch_up()

    def send_once(self) -> bool:
        """Send what can be sent now, for the thread; return whether there is more."""
        try:
            self.catch_up(waits=False)
            if self.unsent:
                self.wait_for_room(_SLICE_SECONDS)
        except Exception:  # noqa: BLE001  # whatever it is, the next call meets it, and says so
            self._give_up()
        return bool(self.unsent)

    def after_fork(self) -> None:
        """Leave what is open to the parent, in a forked child."""
        for slot in self.slots.members():
            slot.forget()
        self.slots = Living()
        self.unsent = {}
        self._reset()


def _keep_sending(reference: weakref.ref[Channel]) -> None:
    exit_by: float | None = None
    while (channel := reference()) is not None and channel.send_once():
        del channel
        if exit_by is None and not threading.main_thread().is_alive():
            exit_by = time.monotonic() + _EXIT_SECONDS
        if exit_by is not None and time.monotonic() > exit_by:
            return
        time.sleep(_SLICE_SECONDS)


def _stand_by(reference: weakref.ref[Channel], standby: threading.Event) -> None:
    while standby.wait() and reference() is not None:
        standby.clear()
        _keep_sending(reference)
