"""The base of our own clients: their slots, one for each scope in each thread."""

from __future__ import annotations

import abc
import threading
from typing import TYPE_CHECKING, Any

from timers.forks import reset_in_child

from ._on_error import ErrorPolicy
from .client import TimerClient
from .slots.request import timer_until

if TYPE_CHECKING:
    from .slots.slot import Slot

_MOST_SLOTS = 8192
"""Of one thread; a worker that puts numbers into its scopes has more, most of them closed."""


class ThreadSlots(threading.local):
    """The slots of each thread, by scope."""

    def __init__(self) -> None:
        self.by_scope: dict[str, Slot] = {}
        self._most = _MOST_SLOTS

    def add(self, slot: Slot) -> Slot:
        """Keep a slot of the calling thread."""
        if len(self.by_scope) >= self._most:
            self.by_scope = {scope: s for scope, s in self.by_scope.items() if s.is_needed}
            self._most = max(_MOST_SLOTS, 2 * len(self.by_scope))
        self.by_scope[slot.scope] = slot
        return slot


class ClientWithSlots(TimerClient):
    """A client of ours: ``expires`` opens and closes the blocks of its slots.

    A subclass that overrides :meth:`acquire` or :meth:`release` has these called instead, as any
    client of somebody's own has.
    """

    def __init__(self, on_error: str | None = None) -> None:
        super().__init__()
        self._errors = ErrorPolicy(on_error)
        self._reset()

    def __getstate__(self) -> dict[str, Any]:
        # What is left out names the process that it is pickled in.
        of_this_process = ("_channel", "_slots", "timer_slots")
        return {name: value for name, value in vars(self).items() if name not in of_this_process}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset()

    def _reset(self) -> None:
        self._slots = ThreadSlots()
        kind = type(self)
        is_ours = (
            kind.acquire is ClientWithSlots.acquire and kind.release is ClientWithSlots.release
        )
        self.timer_slots = self._slots if is_ours else None
        """What ``expires`` uses."""
        reset_in_child(self)

    def after_fork(self) -> None:
        """Have no slots in a forked child: they are the parent's."""
        self._slots = ThreadSlots()
        if self.timer_slots is not None:
            self.timer_slots = self._slots

    @property
    def failures(self) -> int:
        """How many requests were not delivered, with ``on_error="warn"``."""
        return self._errors.failures

    def prepare(self) -> None:
        """Prepare what may be impossible later; called by ``configure``."""

    @abc.abstractmethod
    def _make_slot(self, scope: str, thread: int) -> Slot:
        """Make the slot of ``scope`` in ``thread``, which is the calling one.

        :raises Exception: there is no server, and ``on_error`` is not "warn".
        """

    def slot(self, scope: str) -> Slot:
        """Return the slot of ``scope`` in the calling thread, made when it is first used."""
        found = self._slots.by_scope.get(scope)
        if found is None:
            found = self._slots.add(self._make_slot(scope, threading.get_native_id()))
        return found

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        """Start, or start again, the timer of ``scope_id`` for the calling thread.

        :param expiration_time: wall-clock seconds since the epoch.
        :raises BrokenPipeError: no server listens (unless ``on_error="warn"``); over the socket,
            where no server has ever been there.
        :raises PermissionError: another user's server is there (likewise).
        :raises RuntimeError: the scope is too long for one message (4096 bytes in all).
        :raises ValueError: ``expiration_time`` is not a number of seconds that a clock can show.
        """
        timer = timer_until(scope_id, expiration_time)
        slot = self.slot(scope_id)
        slot.hold(timer)

    def release(self, scope_id: str) -> None:
        """Stop the timer of ``scope_id`` of the calling thread; allowed when there is none.

        :raises BrokenPipeError: no server listens (unless ``on_error="warn"``).
        """
        self.slot(scope_id).drop()
