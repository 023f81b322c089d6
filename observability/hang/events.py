"""The event that tells of a hang."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from timers.events import Event

if TYPE_CHECKING:
    from .report import HangReport

__all__ = ["HangReported"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HangReported(Event):
    """Who is the odd one out in a run of which a worker expired; before anybody is killed."""

    name: ClassVar[str] = "hang report"
    default_level: ClassVar[str] = "warning"

    report: HangReport
