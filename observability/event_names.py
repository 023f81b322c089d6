"""The names of all events that may be logged: what ``--include`` and ``--exclude`` accept."""

from __future__ import annotations

from timers import events
from timers.events import Event

from . import run_events
from .cli import process_logging
from .hang import events as hang_events
from .hang import scope_durations

__all__ = ["event_names"]

_MODULES = (events, hang_events, process_logging, run_events, scope_durations)


def event_names() -> list[str]:
    """All names, sorted."""
    found = [value for module in _MODULES for value in vars(module).values()]
    kinds = [value for value in found if isinstance(value, type) and issubclass(value, Event)]
    return sorted({kind.name for kind in kinds if kind is not Event})
