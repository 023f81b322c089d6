"""What a server makes of messages: the counts, and which blocks it takes for open."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from timers.transport.wire import Message

__all__ = ["Account"]


class Account:
    """Adds messages up."""

    def __init__(self) -> None:
        self.acquires: Counter[str] = Counter()
        self.releases: Counter[str] = Counter()
        self.open: set[tuple[int, int | None, str]] = set()
        """Process, thread and scope of each."""

    def take(self, messages: Iterable[Message]) -> None:
        """Add some messages."""
        for message in messages:
            scope = message.scope_id
            is_release = message.expiration_time < 0
            ends = is_release or message.leave
            acquires, releases = message.missed or ((0, 1) if ends else (1, 0))
            self.acquires[scope] += acquires
            self.releases[scope] += releases
            timer = (message.pid, message.thread, scope)
            (self.open.discard if is_release else self.open.add)(timer)

    @property
    def totals(self) -> tuple[int, int]:
        """All acquires and releases."""
        return self.acquires.total(), self.releases.total()

    @property
    def open_scopes(self) -> list[str]:
        """The scopes of all that is open."""
        return sorted(scope for _, _, scope in self.open)
