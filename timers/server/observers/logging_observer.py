"""Events through the standard :mod:`logging`, for a server that was given no other observer."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from timers.events import Event, StackDumped, TimerInfo, WorkerInfo

from .event_queue import Dispatcher

__all__ = ["log_events"]

_logger = logging.getLogger("timers.events")
_LEVELS = logging.getLevelNamesMapping()


def log_events() -> Dispatcher:
    """Make an observer that logs each event to ``timers.events``, from its own thread."""
    return Dispatcher(_log, name="logging")


def _log(event: Event) -> None:
    if isinstance(event, StackDumped):
        return  # log_debug_info_for_expired_timers has logged it, whole
    level = _LEVELS[event.level.upper()]
    if _logger.isEnabledFor(level):
        _logger.log(level, "%s%s", event.name, _described(event))


def _described(event: Event) -> str:
    words = []
    for field in dataclasses.fields(event):
        value: Any = getattr(event, field.name)
        if field.name == "timestamp" or value in ("", (), None):
            continue
        if isinstance(value, WorkerInfo):
            words.append(f"worker={value.pid}")
            if value.rank is not None:
                words.append(f"rank={value.rank}")
        elif isinstance(value, TimerInfo):
            words.append(f"scope={value.scope_id!r} after={value.after_seconds:g}")
        elif isinstance(value, float):
            words.append(f"{field.name}={value:.3f}")
        elif isinstance(value, tuple):
            words.append(f"{field.name}={len(value)}")
        elif isinstance(value, str) and not value.isprintable():
            words.append(f"{field.name}={value!r}")  # a worker chose it: it gets no line of its own
        else:
            words.append(f"{field.name}={value}")
    return ": " + " ".join(words) if words else ""
