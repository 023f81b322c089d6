"""``expires()``: the block that may take so long and no longer, as the worker writes it.

What is open in a thread is remembered here, so that a block inside another one of the same scope
does not take the outer block's protection away when it ends: its end restarts the countdown of
the block around it.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast

from . import trace_context
from .errors import ClientNotConfiguredError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from .api import TimerClient
    from .trace_context import ScopeSpan

__all__ = ["Announcement", "calling", "configure", "expires"]

P = ParamSpec("P")
R = TypeVar("R")

_logger = logging.getLogger(__name__)
_LONGEST_SECONDS = 3e9
"""A century: no deadline on the wire may come to lie beyond the range of the clocks."""


class Announcement(NamedTuple):
    """What ``expires`` knows about the call it is making, beyond torch's two arguments.

    Left in :data:`calling` for the duration of the call. Our own clients send it along; a client
    written for torch never notices.
    """

    expiration_time: float
    """The argument it belongs to (-1: a release): a client given another must not use the rest."""
    thread: int
    """Native id of the thread that entered the block, which need not be the one that leaves it."""
    after: float = 0.0
    deadline_ns: int = 0
    nested: bool = False
    leave: bool = False
    error: str | None = None
    """Type name of the exception that is leaving the block."""
    span: ScopeSpan | None = None
    warn_after: float | None = None


class _Block(NamedTuple):
    """One entered and not yet left block."""

    owner: expires
    client: TimerClient
    after: float
    expiration_time: float
    deadline_ns: int
    span: ScopeSpan | None
    outer: _Block | None
    """The block of the same thread and scope that it was entered in."""


class _Calling(threading.local):
    announcement: Announcement | None = None


calling = _Calling()
"""Per thread: the announcement of the call under way, if ``expires`` is making it."""

# By (native thread id, scope), the innermost block first. One dictionary for all threads, because
# a block may be left by another thread than the one that entered it. Every access is one operation
# on a built-in dictionary, which needs no lock.
_blocks: dict[tuple[int, str], _Block] = {}

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
        if isinstance(after, str | bytes):  # which float() would take
            raise TypeError(f"expires(after={after!r}): must be a number of seconds")
        try:
            seconds = float(after)
        except OverflowError:
            seconds = math.inf
        if not 0 <= seconds < math.inf:
            raise ValueError(f"expires(after={after!r}): must be a finite number of seconds >= 0")
        if warn_after is not None and not 0 < warn_after < seconds:
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
        self._after = min(seconds, _LONGEST_SECONDS)
        self._scope = scope
        self._client = client
        self._warn_after = None if warn_after is None else float(warn_after)

    def __enter__(self) -> None:
        client = _client if self._client is None else self._client
        if client is None:
            raise ClientNotConfiguredError(
                "no timer client configured: call timers.configure(client) in this worker before "
                "timers.expires(), or pass client= to it"
            )
        scope = self._scope
        after = self._after
        thread = threading.get_native_id()
        outer = _blocks.get((thread, scope))
        expiration_time = time.time() + after
        deadline_ns = time.monotonic_ns() + int(after * 1_000_000_000)
        nested = outer is not None and _same_client(outer, client) is not None
        span = trace_context.enter()
        calling.announcement = Announcement(
            expiration_time,
            thread,
            after,
            deadline_ns,
            nested,
            span=span,
            warn_after=self._warn_after,
        )
        try:
            client.acquire(scope, expiration_time)
        except BaseException:
            if span is not None:
                trace_context.leave(span)
            raise
        finally:
            calling.announcement = None
        _blocks[thread, scope] = _Block(
            self, client, after, expiration_time, deadline_ns, span, outer
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        thread = threading.get_native_id()
        scope = self._scope
        block = _blocks.get((thread, scope))
        innermost = True
        if block is None or block.owner is not self:
            thread, block, innermost = _find(self, thread, scope)
        rest = _without(block, _blocks[thread, scope])
        if rest is None:
            del _blocks[thread, scope]
        else:
            _blocks[thread, scope] = rest
        if block.span is not None:
            trace_context.leave(block.span)
        around = _same_client(rest, block.client)
        error_name = None if kind is None else kind.__name__
        try:
            if around is None:
                calling.announcement = Announcement(-1, thread, error=error_name)
                block.client.release(scope)
                return
            expiration_time, deadline_ns = around.expiration_time, around.deadline_ns
            if innermost:  # else an interleaved coroutine: nothing restarts
                expiration_time = time.time() + around.after
                deadline_ns = time.monotonic_ns() + int(around.after * 1_000_000_000)
            calling.announcement = Announcement(
                expiration_time,
                thread,
                around.after,
                deadline_ns,
                leave=True,
                error=error_name,
                warn_after=around.owner._warn_after,  # noqa: SLF001  # of this class
            )
            block.client.acquire(scope, expiration_time)
        except Exception as failure:  # noqa: BLE001  # whatever a client raises
            _logger.warning(
                "could not release the timer of scope %r, which may expire although its block "
                "has ended: %s: %s",
                scope,
                type(failure).__name__,
                failure,
            )
        finally:
            calling.announcement = None

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


def _same_client(block: _Block | None, client: TimerClient) -> _Block | None:
    """The innermost block from ``block`` outwards that was sent to ``client``."""
    while block is not None and block.client is not client:
        block = block.outer
    return block


def _without(block: _Block, chain: _Block) -> _Block | None:
    """``chain`` with ``block`` taken out."""
    if chain is block:
        return chain.outer
    assert chain.outer is not None  # noqa: S101  # the caller found it in this chain
    return chain._replace(outer=_without(block, chain.outer))


def _find(owner: expires, thread: int, scope: str) -> tuple[int, _Block, bool]:
    """The innermost block of ``owner``, this thread's before others', and whether it is on top."""
    keys = [(thread, scope), *(key for key in list(_blocks) if key[1] == scope)]
    for key in keys:
        block = top = _blocks.get(key)
        while block is not None:
            if block.owner is owner:
                return key[0], block, block is top
            block = block.outer
    raise RuntimeError(f"expires(scope={scope!r}) was left but never entered")
