"""Events of the command itself, next to those of the server in :mod:`timers.events`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from timers.events import Event

__all__ = ["Notice", "RunFinished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """Something that a person should know and that is nobody's failure."""

    name: ClassVar[str] = "notice"
    default_level: ClassVar[str] = "warning"

    message: str
    severity: str = "warning"

    @property
    def level(self) -> str:
        """The ``severity`` it was made with."""
        return self.severity


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """The last event of ``timers run``: the supervised command has ended, and what was counted."""

    name: ClassVar[str] = "run finished"
    default_level: ClassVar[str] = "info"

    exit_code: int
    """Of the command, and of ``timers run``: 128+n when signal n ended it."""
    elapsed_seconds: float
    acquires: int
    expirations: int
    reaps: int
    """Workers that were ended; attempts that failed are not among them."""
