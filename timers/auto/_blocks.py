"""Blocks that nobody has written: opened and closed by hooks, which never harm what they are in."""

from __future__ import annotations

import functools
import logging
import os
import signal
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from timers.worker.environment import offered_client
from timers.worker.scopes import expires
from timers.worker.slots.board_slot import BoardSlot
from timers.worker.socket_client import SocketTimerClient

from . import ACTION_VARIABLE, KILL_CHOSEN
from ._chosen import chosen_seconds
from .learned import UNKNOWN_SECONDS, learned_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from timers.worker.client import TimerClient

_logger = logging.getLogger(__name__)
_NEVER_SECONDS = 7 * 24 * 3600.0
_SHORTEST_SECONDS = 600.0
"""No automatic deadline is shorter: as long a collective of NCCL's may take by default, so that
ranks may wait for one that evaluates or saves."""
_KEPT_SECONDS = 1.0
"""How long a deadline is taken for what it was: to find it costs as much as the block does."""


@functools.cache
def _client(number: int) -> TimerClient | None:
    """Return the client of automatic blocks that end with a signal; a forked child goes on with it.

    :param number: of the signal; 0 to report only, as where there is no deadline.
    """
    client = offered_client(os.environ, signal=number, on_error="warn")
    return client if isinstance(client, SocketTimerClient) else None


def _is_apart(client: TimerClient, scope: str) -> bool:
    """Whether a block of ``client`` is apart from one that the job itself has for the same scope.

    On a board of its own it is; a message would be about the job's.
    """
    return not isinstance(client, SocketTimerClient) or isinstance(client.slot(scope), BoardSlot)


def _signal(*, chosen: bool) -> int:
    """Return what the expiry of a timer sends.

    :param chosen: whether somebody chose its deadline.
    """
    action = os.environ.get(ACTION_VARIABLE)
    kills = action == "kill" or (action == KILL_CHOSEN and chosen)
    return signal.SIGKILL if kills else 0


class _Kept(NamedTuple):
    """How the blocks of a scope are opened."""

    until: float
    """Of the monotonic clock."""
    after: float
    client: TimerClient | None


class Hook:
    """Opens and closes the blocks of one kind; whatever fails turns it off, with one warning.

    :param kind: its name in ``TIMERS_AUTO``.
    :param unknown: seconds, the deadline of a scope that nothing is known of; inf for none.
    :param patient: scopes that have none as long as nothing is known of them.
    """

    def __init__(
        self,
        kind: str,
        *,
        unknown: float = UNKNOWN_SECONDS,
        patient: frozenset[str] = frozenset(),
    ) -> None:
        self.kind = kind
        self._unknown = unknown
        self._patient = patient
        self.is_off = False
        self._kept: dict[tuple[str, bool], _Kept] = {}
        """By scope, and whether it has a deadline."""

    def begin(self, scope: str, *, timed: bool = True) -> expires | None:
        """Open a block and return it; None when this kind is off.

        :param timed: False for one that has no deadline to speak of.
        """
        if self.is_off:
            return None
        try:
            now = monotonic()
            kept = self._kept.get((scope, timed))
            if kept is None or now >= kept.until:
                after, number = self._deadline(scope) if timed else (inf, 0)
                seconds = _NEVER_SECONDS if after == inf else after
                kept = _Kept(now + _KEPT_SECONDS, seconds, _client(number))
                self._kept[scope, timed] = kept
            if kept.client is None or not _is_apart(kept.client, scope):
                self.is_off = True
                return None
            block = expires(kept.after, scope, kept.client)
            block.__enter__()
        except Exception as error:  # noqa: BLE001  # whatever it is, the job goes on
            self.fail(error)
            return None
        return block

    def _deadline(self, scope: str) -> tuple[float, int]:
        """Return the deadline of ``scope`` and its signal; inf for what may take days."""
        chosen = chosen_seconds(scope, self.kind)
        if chosen is not None:
            return chosen, _signal(chosen=True)
        unknown = inf if scope in self._patient else self._unknown
        after = learned_seconds(scope, shortest=_SHORTEST_SECONDS, unknown=unknown)
        return after, 0 if after == inf else _signal(chosen=False)

    def end(self, block: expires | None) -> None:
        """Close a block that :meth:`begin` returned."""
        if block is None:
            return
        try:
            block.__exit__(None, None, None)
        except Exception as error:  # noqa: BLE001  # as above
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Turn this kind off for good, and say so once."""
        if not self.is_off:
            self.is_off = True
            _logger.warning(
                "no more automatic timers of the kind %r in process %d: %s: %s",
                self.kind,
                os.getpid(),
                type(error).__name__,
                error,
            )


def wrapped(function: Callable[..., Any], hook: Hook, scope: str) -> Callable[..., Any]:
    """Return ``function`` with a block around each call, in all else like it."""

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        block = hook.begin(scope)
        try:
            return function(*arguments, **keywords)
        finally:
            hook.end(block)

    return skipped_by_dynamo(call)


def skipped_by_dynamo(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have torch's compiler leave ``function`` alone, as it does torch's own that it stands for."""
    vars(function)["_torchdynamo_disable"] = True  # what torch.compiler.disable sets
    return function
