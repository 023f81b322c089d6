"""A worker's side of a board without a socket: its blocks are entered by ``expires`` itself.

For servers that are driven by hand: who hands the board over, and when the server looks, is up to
the test. Its time is that of a clock that is moved by hand.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from timers.transport.board import CLOSED, MOVED, Layout
from timers.transport.wire import WAKE
from timers.worker import scopes
from timers.worker._client_slots import ClientWithSlots
from timers.worker._socket_channel import SocketChannel
from timers.worker.slots import board_slot
from timers.worker.slots import slot as slots
from timers.worker.slots.board import Board
from timers.worker.slots.board_slot import BoardSlot

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from timers.clock import Clock
    from timers.worker.slots.request import Request
    from timers.worker.slots.slot import Slot

__all__ = ["BoardWorker", "use_clock"]

_SIGNAL = 9


def use_clock(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Have the blocks of boards go by ``clock``."""
    time = SimpleNamespace(
        monotonic_ns=clock.monotonic_ns, time_ns=lambda: int(clock.time() * 1_000_000_000)
    )
    monkeypatch.setattr(slots, "time", time)
    monkeypatch.setattr(board_slot, "time", time)
    monkeypatch.setattr(scopes, "monotonic_ns", clock.monotonic_ns)


class _Words:
    """Words that only Python writes: the accelerator goes by no clock that is moved by hand."""

    def __init__(self, view: Any) -> None:
        self._view = view

    def __getitem__(self, at: Any) -> Any:
        return self._view[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        self._view[at] = value


class BoardWorker(ClientWithSlots):
    """A client whose slots are on a board; also what those slots take for their channel.

    :param on_wake: is called in place of a wake-up being sent.
    """

    def __init__(
        self, on_wake: Callable[[], None] = lambda: None, layout: Layout | None = None
    ) -> None:
        self.board: Board | None = Board(layout or Layout(16))
        self.wants = False
        self.uses: dict[str, int] = {}
        self.on_wake = on_wake
        self._woken = (-1, 0)
        self.made: list[BoardSlot] = []
        super().__init__()

    @property
    def own(self) -> Board:
        """The board."""
        assert self.board is not None
        return self.board

    def descriptor(self) -> int:
        """Return a descriptor of the board, for whoever takes it over."""
        return os.dup(self.own.fd)

    def words(self, view: Any) -> Any:
        """Return what a slot writes to; may be overridden."""
        return _Words(view)

    def _make_slot(self, scope: str, thread: int) -> Slot:
        number = self.own.take(scope, thread, _SIGNAL)
        assert number is not None
        slot = BoardSlot(self, self.own, number, scope, thread)
        slot.view = self.words(slot.view)
        self.made.append(slot)
        return slot

    def attend(self) -> bool:
        """Want nothing."""
        return self.wants

    def lead(self, after_ns: int) -> int:
        """Have no block looked at before its deadline."""
        del after_ns
        return 0

    wake = SocketChannel.wake

    def _send_now(self, line: bytes) -> bool:
        assert line == WAKE
        self.on_wake()
        return True

    def send_event(self, request: Request, elapsed_ns: int | None) -> None:
        """Send nothing."""

    def move(self) -> None:
        """Move to another board, as when the descriptors of this one are lost."""
        old = self.own
        self.board = Board(old.layout, old)
        old.words[CLOSED] = MOVED
        for slot in self.made:
            slot.move(self.own)
            slot.view = self.words(slot.view)

    def close(self) -> None:
        """Give the descriptor back."""
        self.own.close()
