"""Which events are logged: by level, and by name whatever the level."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timers.events import TimerAcquired, TimerReleased

if TYPE_CHECKING:
    from collections.abc import Collection

    from timers.events import Event

__all__ = ["LEVELS", "EventFilter"]

LEVELS = ("debug", "info", "warning", "error")
"""From the chattiest to the gravest."""


class EventFilter:
    """Lets events pass.

    :param level: one of :data:`LEVELS`; events below it do not pass.
    :param include: names of events that pass whatever their level.
    :param exclude: names of events that never pass.
    :raises ValueError: for an unknown ``level``.
    """

    def __init__(self, level: str, include: Collection[str], exclude: Collection[str]) -> None:
        if level not in LEVELS:
            raise ValueError(f"unknown log level {level!r}: use one of {', '.join(LEVELS)}")
        self._levels = frozenset(LEVELS[LEVELS.index(level) :])
        self.included = frozenset(include)
        self._exclude = frozenset(exclude)
        self.wants_requests = any(
            self._passes(event.name, event.default_level)
            for event in (TimerAcquired, TimerReleased)
        )
        """Whether acquires and releases pass."""

    def passes(self, event: Event) -> bool:
        """Tell whether ``event`` is logged."""
        return self._passes(event.name, event.level)

    def _passes(self, name: str, level: str) -> bool:
        if name in self._exclude:
            return False
        return name in self.included or level in self._levels
