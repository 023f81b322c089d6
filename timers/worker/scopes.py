"""``expires()``: the block that may take so long and no longer, as the worker writes it.

Entering and leaving a plain block of a client with a board is written out here, because it is done
in inner loops, and once more in C, where that can be had (:mod:`timers.accelerator`);
everything else is in :mod:`timers.worker.slots.slot`, which also says why each of these lines
stands where it does.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import threading
import weakref
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from timers.accelerator import accelerated
from timers.auto.learned import Learned, learned_seconds
from timers.errors import ClientNotConfiguredError

from ._client_slots import ClientWithSlots
from ._decorator import guard
from ._foreign import slot_of
from .slots import tasks
from .slots.slot import DEPTH, ENTER, NONE, Slot, TakenError
from .slots.to_its_ends import to_its_end, to_its_ends

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import FrameType, TracebackType

    from .client import TimerClient

__all__ = ["configure", "expires"]

P = ParamSpec("P")
R = TypeVar("R")

_logger = logging.getLogger(__name__)
_LONGEST_SECONDS = 3e9
"""A century: no deadline on the wire may come to lie beyond the range of the clocks."""
_LOOK = 512
"""Where on a board the server's next look stands: :data:`timers.transport.board.LOOK`, which a
worker without a socket does not load."""

_client: TimerClient | None = None

offer: Callable[[], TimerClient | None] | None = None
"""Configures and returns the client that the environment offers, for a block that finds none; None
where it offers none. Set by :mod:`timers.worker.environment`, which imports this module."""


def configure(timer_client: TimerClient | None) -> None:
    """Set the client of this process, for every thread; None unsets it.

    To be called once in each worker before :class:`expires` is used. A forked child inherits it.
    """
    global _client  # noqa: PLW0603  # one client a process is torch's contract
    _client = timer_client
    if isinstance(timer_client, ClientWithSlots):
        timer_client.prepare()
    _logger.info("timer client configured to %s", type(timer_client).__name__)


class expires:  # noqa: N801  # torch's name; used like a function
    """Acquire a countdown timer for a block; the worker may be reaped when the block overruns.

    Works as ``with``, as ``async with`` and as a decorator of functions, ``async`` functions,
    generators and ``async`` generators, and may be entered again, from other threads too.

    :param after: seconds from entering the block to its deadline: finite and at least 0 (then it
        expires at once); more than a century is taken as a century. ``timers.LEARNED`` follows
        from how long the scope took before (:mod:`timers.auto.learned`).
    :param scope: names the block; by default ``"{file}#{line}"`` of the caller. In one thread a
        scope is one timer: entering it again restarts the countdown, and leaving the inner block
        restarts that of the outer one. Blocks in different threads never share a timer.
    :param client: who to send it to; by default the client given to :func:`configure`.
    :param warn_after: seconds, more than 0 and less than ``after``: when the block takes longer
        than this, the server says so (event ``timer warning``) and takes note of the stack.
        Not known to torch's server and clients, which ignore it.
    :raises RuntimeError: on entering, when there is no client at all: none was configured, and the
        environment names no server (then it is used, as by :func:`configure_from_env`).
    :raises ValueError: when ``after`` is negative or not finite, or ``warn_after`` not within it.
    :raises TypeError: when ``after`` is not a number or ``scope`` not a string.

    Entering raises whatever ``client.acquire`` raises (:class:`BrokenPipeError` when no server
    listens). Leaving never raises by itself: a release that fails is logged, so that it neither
    hides the exception of the block nor fails a block that succeeded. An exception that comes from
    outside at any moment (Ctrl-C, a signal's handler, ``PyThreadState_SetAsyncExc``) leaves no
    timer running after its block, at the latest when the block object ends.

    Differs from torch: the default scope is the caller's line (torch takes a line of contextlib,
    the same for everybody); leaving a nested block keeps the outer one protected; a failing
    release does not raise; negative, infinite and not-a-number durations are errors.
    """

    __slots__ = (
        "__weakref__",
        "_after",
        "_client",
        "_others",
        "_plain",
        "_scope",
        "_slot",
        "_ticket",
        "_warn_after",
    )

    _slot: Slot
    """Where the block was entered that is left next."""
    _ticket: int | None
    """By which that slot knows the block; None outside. Positive when :meth:`__exit__` may leave it
    by itself: a plain one on a board, of an object that was entered once."""
    _others: list[expires] | None
    """Blocks of this object that were entered while it was: inside itself, or elsewhere."""

    def __init__(
        self,
        after: float,
        scope: str | None = None,
        client: TimerClient | None = None,
        *,
        warn_after: float | None = None,
    ) -> None:
        if after.__class__ is not int and after.__class__ is not float:
            if after.__class__ is Learned:
                scope = scope or _place(sys._getframe(1))
                after = Learned(learned_seconds(scope))
            else:
                after = _number(after)
        if not 0 <= after <= _LONGEST_SECONDS:
            after = _limited(after)
        self._plain = after
        if warn_after is not None:
            if not 0 < warn_after < after:
                raise ValueError(
                    f"expires(after={after!r}, warn_after={warn_after!r}): must be more than 0 and"
                    " less than after"
                )
            self._plain = -1.0
        if scope is None:
            # One frame up and no further: inspect.stack() would read source files for each frame.
            scope = _place(sys._getframe(1))  # what inspect.currentframe() is made of
        elif not isinstance(scope, str):
            raise TypeError(f"expires(scope={scope!r}): must be a string")
        self._after = after
        self._scope = scope
        self._client = client
        self._warn_after = warn_after
        self._ticket = self._others = None

    @to_its_end
    def __enter__(self) -> None:
        client = _client if self._client is None else self._client
        if self._ticket is not None:
            return self._enter_again()
        try:
            slot: Any = client.timer_slots.by_scope[self._scope]  # type: ignore[union-attr]  # below
        except (AttributeError, KeyError):
            slot = _slot(client, self._scope)
        try:
            if slot.after != self._plain:
                slot.enter(self, self._after, self._warn_after)
                return None
            guard = weakref.ref(self, slot.guarded)
            deadline_ns = monotonic_ns() + slot.after_ns
            view = slot.view  # one step from here
            state = view[slot.at_state]
            if state & DEPTH or slot.after != self._plain or self._ticket is not None:
                slot.enter(self, self._after, self._warn_after)
                return None
            self._ticket, view[slot.at_deadline] = state + ENTER, deadline_ns
            # fmt: off
            slot.guard, view[slot.at_state] = guard, state + ENTER; self._slot = slot  # noqa: E702  # one line: see there
            # fmt: on
            if deadline_ns - slot.lead < view[_LOOK]:
                slot.wake(deadline_ns)
        except TakenError:
            return self._enter_again()
        except BaseException:
            self._abandon()
            raise

    @to_its_ends
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            now = monotonic_ns()
            ticket = self._ticket  # one step from here
            if ticket is None:
                message = f"expires(scope={self._scope!r}) was left but never entered"
                raise RuntimeError(message)  # noqa: TRY301  # what is raised here ends there
            slot = self._slot
            view = slot.view
            if view[slot.at_state] != ticket:
                return self._leave(None if kind is None else kind.__name__)
            elapsed = now - view[slot.at_deadline] + slot.after_ns
            view[slot.at_state], self._ticket, slot.guard = ticket - 1, None, None
            view[slot.at_deadline] = NONE
            if elapsed < slot.limit:
                view[slot.at_short] += elapsed
            else:
                slot.closed(None, elapsed, elapsed, None)
        except BaseException:
            self._abandon()
            raise

    def _leave(self, error: str | None) -> None:
        """Leave a block whose end takes more than two stores."""
        last = self._last_entered()
        try:
            last._slot.leave(cast("int", last._ticket), error)
        except Exception as failure:  # noqa: BLE001  # whatever a client raises
            _logger.warning(
                "could not release the timer of scope %r, which may expire although its block "
                "has ended: %s: %s",
                self._scope,
                type(failure).__name__,
                failure,
            )
        self._forget(last)

    def _abandon(self) -> None:
        """Leave the block whose entry or end was interrupted, if it is not left yet."""
        last = self._last_entered()
        if last._ticket is not None and last._ticket != _NONE_OF_ITS_OWN:
            with contextlib.suppress(Exception):
                last._slot.finish(last._ticket)
        self._forget(last)

    # -- an object that is entered again, inside its own block or in another thread -----------

    def _enter_again(self) -> None:
        other = self._copy()
        try:
            other.__enter__()
            while True:
                known = self._others
                others = [*(known or ()), other]
                if self._others is known:  # one step from here: other threads may do the same
                    break
            ticket = self._ticket
            if ticket is None:  # the block that was the reason for this one was left meanwhile
                self._ticket = _NONE_OF_ITS_OWN
            elif ticket > 0:
                self._ticket = -ticket
            self._others = others
        except BaseException:
            other._abandon()
            self._forget(other)
            raise

    def _last_entered(self) -> expires:
        """Return whose block is left next: the calling thread's last one, or anybody's."""
        others = self._others
        if others:
            thread = threading.get_native_id()
            here = [other for other in others if other._slot.thread == thread]
            if here or self._ticket == _NONE_OF_ITS_OWN or self._slot.thread != thread:
                return (here or others)[-1]
        return self

    def _forget(self, last: expires) -> None:
        """Note that the block of ``last`` is left. The last line decides, or two would be left."""
        while True:
            known = self._others
            others = [other for other in known or () if other is not last]
            if self._others is known:  # one step from here: other threads may do the same
                break
        if last is self:
            self._ticket = _NONE_OF_ITS_OWN if others else None
        else:
            last._ticket = None
            if not others and self._ticket == _NONE_OF_ITS_OWN:
                self._ticket = None
            self._others = others

    # -- other ways to write it ---------------------------------------------------------------

    def _copy(self) -> expires:
        return expires(self._after, self._scope, self._client, warn_after=self._warn_after)

    async def __aenter__(self) -> None:
        tasks.entered(self._scope)
        self.__enter__()

    @to_its_ends
    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Awaitable[None]:
        # No coroutine, which would be left to be begun.
        try:
            self.__exit__(kind, error, traceback)
            tasks.left(self._scope)
        except BaseException:
            self._abandon()
            raise
        return _DONE

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Guard each call of ``function``, by a block of its own.

        Where a call goes on after it has returned, until that is done: for a coroutine or any other
        awaitable that it returns, and for a generator from its first step to its last.
        """
        return guard(function, self._copy)


if not TYPE_CHECKING:  # the same class to whoever reads it
    expires = accelerated(expires, Slot, globals(), _LOOK)


class _Done:
    """Has been awaited as soon as it is awaited."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


_DONE = _Done()


def _place(caller: FrameType) -> str:
    return f"{caller.f_code.co_filename}#{caller.f_lineno}"


_NONE_OF_ITS_OWN = -1
"""The ticket of an object that is entered again and no longer itself."""


def _slot(client: TimerClient | None, scope: str) -> Slot:
    if client is None and offer is not None:
        client = offer()
    if client is None:
        raise ClientNotConfiguredError(
            "no timer client configured: call timers.configure(client) in this worker before "
            "timers.expires(), or pass client= to it. The environment names no server either; "
            "timers.configure_from_env() turns timers off where that is so, for code that also "
            "runs in notebooks and tests"
        )
    if isinstance(client, ClientWithSlots) and client.timer_slots is not None:
        return client.slot(scope)
    return slot_of(client, scope)


def _number(after: object) -> float:
    """``after`` as a float, if it is a number of any kind."""
    if isinstance(after, str | bytes):  # which float() would take
        raise TypeError(f"expires(after={after!r}): must be a number of seconds")
    try:
        return float(cast("float", after))
    except OverflowError:
        return math.inf


def _limited(after: float) -> float:
    """``after``, of which it is known that it is not within a century."""
    if not 0 <= _number(after) < math.inf:
        raise ValueError(f"expires(after={after!r}): must be a finite number of seconds >= 0")
    return _LONGEST_SECONDS
