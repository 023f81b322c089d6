"""Slots for clients of somebody's own: only ``acquire`` and ``release`` are known of them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from timers.forks import reset_in_child

from ._client_slots import ThreadSlots
from .slots.messages import Channel, MessageSlot

if TYPE_CHECKING:
    from timers.transport.receipt import Receipt

    from .client import TimerClient
    from .slots.request import Request

_MOST_CLIENTS = 64
"""Remembered in one thread; more come of a client made for each block."""


class _Clients(threading.local):
    def __init__(self) -> None:
        self.by_id: dict[int, tuple[_ForeignChannel, ThreadSlots]] = {}

    def after_fork(self) -> None:
        self.by_id = {}


class _ForeignChannel(Channel):
    """Calls a client; what that raises is raised."""

    def __init__(self, client: TimerClient) -> None:
        super().__init__(None)
        self.client = client

    def write(self, request: Request, receipt: Receipt, totals: tuple[int, int]) -> None:
        receipt.sent = totals
        if request.is_release:
            self.client.release(request.scope_id)
        else:
            self.client.acquire(request.scope_id, request.expiration_time)

    def is_failure(self, error: Exception) -> bool:
        return True


_clients = _Clients()
reset_in_child(_clients)


def slot_of(client: TimerClient, scope: str) -> MessageSlot:
    """Return the slot of ``scope`` in the calling thread for ``client``."""
    known = _clients.by_id.get(id(client))
    if known is None or known[0].client is not client:
        if len(_clients.by_id) >= _MOST_CLIENTS:
            for key, (_, slots) in list(_clients.by_id.items()):
                if not any(slot.is_needed for slot in list(slots.by_scope.values())):
                    del _clients.by_id[key]
        known = _clients.by_id[id(client)] = _ForeignChannel(client), ThreadSlots()
    channel, slots = known
    slot = slots.by_scope.get(scope)
    if slot is None:
        slot = slots.add(MessageSlot(channel, scope, threading.get_native_id()))
    assert isinstance(slot, MessageSlot)  # noqa: S101  # nothing else was added
    return slot
