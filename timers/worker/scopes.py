"""``expires()``: the block that may take so long and no longer, as the worker writes it.

What is open in a thread is remembered here, so that a block inside another one of the same scope
does not take the outer block's protection away when it ends: its end restarts the countdown of
the block around it.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast

from timers.errors import ClientNotConfiguredError

from . import _trace_context as trace_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ._trace_context import ScopeSpan
    from .client import TimerClient

__all__ = ["Deadline", "Special", "calling", "configure", "expires", "plain_deadline"]

P = ParamSpec("P")
R = TypeVar("R")

_logger = logging.getLogger(__name__)
_NS = 1_000_000_000
_LATEST = 2**33
"""Seconds since the epoch: the year 2242."""
_TRACE = "opentelemetry.trace"
"""Nobody traces unless this has been imported."""
_LONGEST_SECONDS = 3e9
"""A century: no deadline on the wire may come to lie beyond the range of the clocks."""


class Special(NamedTuple):
    """What is to be said of few blocks."""

    nested: bool = False
    """Whether the same client has been told of a block around it, of the same scope."""
    leave: bool = False
    """Whether an inner block has ended, which restarts the countdown of this one."""
    error: str | None = None
    """Of a leave: type name of the exception that is leaving the inner block."""
    span: ScopeSpan | None = None
    warn_after: float | None = None


class Deadline(float):
    """The ``expiration_time`` of one block, and whatever else ``expires`` knows of that block.

    Our own clients (``takes_deadlines``) are given it in place of the number, and send the rest
    along. Copied and pickled, it is the number alone.
    """

    __slots__ = ("after", "client", "deadline_ns", "outer", "owner", "special", "thread", "wall_ns")

    wall_ns: int
    """The number itself, in nanoseconds."""
    thread: int
    """Native id of the thread that entered the block, which need not be the one that leaves it."""
    after: float
    deadline_ns: int
    owner: expires
    client: TimerClient
    outer: Deadline | None
    """The block of the same thread and scope that it was entered in."""
    special: Special | None

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return float, (float(self),)


class _Calling(threading.local):
    """Of one thread: who it is, and what ``expires`` has to say about the release under way."""

    def __init__(self) -> None:
        self.native_id = threading.get_native_id()
        """Kept, because the function is a system call."""
        self.release: tuple[int, str | None] | None = None
        """Thread that entered the block, and type name of the exception that is leaving it; None
        when it is this thread, and no exception."""


calling = _Calling()


def _after_fork_in_child() -> None:
    calling.native_id = threading.get_native_id()  # of the only thread that there is


os.register_at_fork(after_in_child=_after_fork_in_child)

# By (native thread id, scope), the innermost block first. One dictionary for all threads, because
# a block may be left by another thread than the one that entered it. Every access is one operation
# on a built-in dictionary, which needs no lock.
_blocks: dict[tuple[int, str], Deadline] = {}

_client: TimerClient | None = None


def configure(timer_client: TimerClient | None) -> None:
    """Set the client of this process, for every thread; None unsets it.

    To be called once in each worker before :class:`expires` is used. A forked child inherits it.
    """
    global _client  # noqa: PLW0603  # one client a process is torch's contract
    _client = timer_client
    _logger.info("timer client configured to %s", type(timer_client).__name__)


class expires:  # noqa: N801  # torch's name; used like a function
    """Acquire a countdown timer for a block; the worker may be reaped when the block overruns.

    Works as ``with``, as ``async with`` and as a decorator of plain and ``async`` functions, and
    may be entered again, from other threads too.

    :param after: seconds from entering the block to its deadline: finite and at least 0 (then it
        expires at once); more than a century is taken as a century.
    :param scope: names the block; by default ``"{file}#{line}"`` of the caller. In one thread a
        scope is one timer: entering it again restarts the countdown, and leaving the inner block
        restarts that of the outer one. Blocks in different threads never share a timer.
    :param client: who to send it to; by default the client given to :func:`configure`.
    :param warn_after: seconds, more than 0 and less than ``after``: when the block takes longer
        than this, the server says so (event ``timer warning``) and takes note of the stack.
        Not known to torch's server and clients, which ignore it.
    :raises RuntimeError: on entering, when there is no client at all.
    :raises ValueError: when ``after`` is negative or not finite, or ``warn_after`` not within it.
    :raises TypeError: when ``after`` is not a number or ``scope`` not a string.

    Entering raises whatever ``client.acquire`` raises (:class:`BrokenPipeError` when no server
    listens). Leaving never raises by itself: a release that fails is logged, so that it neither
    hides the exception of the block nor fails a block that succeeded.

    Differs from torch: the default scope is the caller's line (torch takes a line of contextlib,
    the same for everybody); leaving a nested block keeps the outer one protected; a failing
    release does not raise; negative, infinite and not-a-number durations are errors.
    """

    __slots__ = ("_after", "_client", "_scope", "_warn_after")

    def __init__(
        self,
        after: float,
        scope: str | None = None,
        client: TimerClient | None = None,
        *,
        warn_after: float | None = None,
    ) -> None:
        if after.__class__ is not int and after.__class__ is not float:
            after = _number(after)
        if not 0 <= after <= _LONGEST_SECONDS:
            after = _limited(after)
        if warn_after is not None and not 0 < warn_after < after:
            raise ValueError(
                f"expires(after={after!r}, warn_after={warn_after!r}): must be more than 0 and less"
                " than after"
            )
        if scope is None:
            # One frame up and no further: inspect.stack() would read source files for each frame.
            caller = sys._getframe(1)  # noqa: SLF001  # what inspect.currentframe() is made of
            scope = f"{caller.f_code.co_filename}#{caller.f_lineno}"
        elif not isinstance(scope, str):
            raise TypeError(f"expires(scope={scope!r}): must be a string")
        self._after = after
        self._scope = scope
        self._client = client
        self._warn_after = warn_after

    def __enter__(self) -> None:
        client = _client if self._client is None else self._client
        if client is None:
            raise ClientNotConfiguredError(
                "no timer client configured: call timers.configure(client) in this worker before "
                "timers.expires(), or pass client= to it"
            )
        thread = calling.native_id
        scope = self._scope
        key = (thread, scope)
        outer = _blocks.get(key)
        special = None
        if outer is not None or self._warn_after is not None or _TRACE in sys.modules:
            special = _special(outer, client, self._warn_after)
        entered = _deadline(self._after)
        entered.thread = thread
        entered.owner = self
        entered.client = client
        entered.outer = outer
        entered.special = special
        try:
            client.acquire(scope, _for(client, entered))
        except BaseException:
            if special is not None and special.span is not None:
                trace_context.leave(special.span)
            raise
        _blocks[key] = entered

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        key = (calling.native_id, self._scope)
        block = _blocks.get(key)
        try:
            if (
                block is None
                or block.owner is not self
                or block.outer is not None
                or block.special is not None
                or kind is not None
            ):
                self._leave(key, None if kind is None else kind.__name__)
            else:
                del _blocks[key]
                block.client.release(self._scope)
        except _NotEnteredError as failure:
            raise RuntimeError(str(failure)) from None
        except Exception as failure:  # noqa: BLE001  # whatever a client raises
            _logger.warning(
                "could not release the timer of scope %r, which may expire although its block "
                "has ended: %s: %s",
                self._scope,
                type(failure).__name__,
                failure,
            )

    def _leave(self, key: tuple[int, str], error: str | None) -> None:
        """Leave a block whose end takes more than a release."""
        block = _blocks.get(key)
        if block is None or block.owner is not self:
            key, block = _find(self, key)
        top = _blocks[key]
        rest = _without(block, top)
        if rest is None:
            del _blocks[key]
        else:
            _blocks[key] = rest
        if block.special is not None and block.special.span is not None:
            trace_context.leave(block.special.span)
        thread, scope = key
        around = _same_client(rest, block.client)
        if around is None:
            calling.release = (thread, error)
            try:
                block.client.release(scope)
            finally:
                calling.release = None
            return
        restarted = _deadline(around.after)
        if block is not top:  # an interleaved coroutine: nothing restarts
            restarted = Deadline(around)
            restarted.wall_ns, restarted.deadline_ns = around.wall_ns, around.deadline_ns
            restarted.after = around.after
        restarted.thread = thread
        restarted.special = Special(
            leave=True,
            error=error,
            warn_after=around.owner._warn_after,  # noqa: SLF001  # of this class
        )
        block.client.acquire(scope, _for(block.client, restarted))

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Guard each call of ``function``; for an ``async`` one, until its coroutine is done."""
        import inspect  # noqa: PLC0415  # a third of the time that this package takes to import

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def guarded_coroutine(*args: P.args, **kwargs: P.kwargs) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return cast("Callable[P, R]", guarded_coroutine)

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return guarded


class _NotEnteredError(Exception):
    pass


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


def _deadline(after: float) -> Deadline:
    """The deadline of a countdown that begins now."""
    after_ns = int(after * _NS)
    wall_ns = time.time_ns() + after_ns
    deadline = Deadline(wall_ns / _NS)
    deadline.wall_ns = wall_ns
    deadline.after = after
    deadline.deadline_ns = time.monotonic_ns() + after_ns
    return deadline


def plain_deadline(scope_id: str, expiration_time: float) -> Deadline:
    """The deadline of a call of ``acquire`` that ``expires`` does not make, in this thread.

    :raises ValueError: ``expiration_time`` is not a number of seconds that a clock can show.
    """
    seconds = float(expiration_time)
    if not 0 <= seconds < _LATEST:
        raise ValueError(
            f"acquire({scope_id!r}, expiration_time={expiration_time!r}): must be seconds since the"
            " epoch, as time.time() has them"
        )
    deadline = Deadline(seconds)
    deadline.wall_ns = int(seconds) * _NS + int(seconds % 1 * _NS)  # seconds * _NS is too large
    remaining_ns = deadline.wall_ns - time.time_ns()
    deadline.thread = calling.native_id
    deadline.after = max(0, remaining_ns) / _NS
    deadline.deadline_ns = max(0, time.monotonic_ns() + remaining_ns)
    deadline.special = None
    return deadline


def _for(client: TimerClient, deadline: Deadline) -> float:
    """``deadline`` as ``client`` knows it."""
    return deadline if getattr(client, "takes_deadlines", False) is True else float(deadline)


def _special(
    outer: Deadline | None, client: TimerClient, warn_after: float | None
) -> Special | None:
    """What is to be said of a block beyond its deadline; None when that is nothing."""
    nested = _same_client(outer, client) is not None
    span = trace_context.enter()
    if not nested and span is None and warn_after is None:
        return None
    return Special(nested=nested, span=span, warn_after=warn_after)


def _same_client(block: Deadline | None, client: TimerClient) -> Deadline | None:
    """The innermost block from ``block`` outwards that was sent to ``client``."""
    while block is not None and block.client is not client:
        block = block.outer
    return block


def _without(block: Deadline, top: Deadline) -> Deadline | None:
    """The innermost of the blocks below ``top`` once ``block`` is taken out of them."""
    if top is block:
        return block.outer
    above = top
    while above.outer is not block:
        assert above.outer is not None  # noqa: S101  # the caller found it in this chain
        above = above.outer
    above.outer = block.outer
    return top


def _find(owner: expires, key: tuple[int, str]) -> tuple[tuple[int, str], Deadline]:
    """The innermost block of ``owner``: this thread's, or another's of the same scope."""
    for found in [key, *(other for other in list(_blocks) if other[1] == key[1])]:
        block = _blocks.get(found)
        while block is not None:
            if block.owner is owner:
                return found, block
            block = block.outer
    raise _NotEnteredError(f"expires(scope={key[1]!r}) was left but never entered")
