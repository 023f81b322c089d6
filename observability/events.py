"""Events of the service and its command, next to those of the server (:mod:`timers.events`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from timers import events as server_events
from timers.events import Event

if TYPE_CHECKING:
    from .hang.types import HangReport

__all__ = [
    "HangReported",
    "JobMoves",
    "JobStalled",
    "LogRecord",
    "Notice",
    "RunFinished",
    "ScopeDurations",
    "event_names",
]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class HangReported(Event):
    """Who is the odd one out in a run of which a worker expired; before anybody is killed."""

    name: ClassVar[str] = "hang report"
    default_level: ClassVar[str] = "warning"

    report: HangReport
    counts: bool = True
    """Whether this host is the one that counts it, and notifies people: of a job of many hosts all
    log the same report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStalled(Event):
    """Nothing of the job has moved for a long time; once for each stall."""

    name: ClassVar[str] = "job stalled"
    default_level: ClassVar[str] = "warning"

    stalled_seconds: float
    """Since the last progress."""
    report: HangReport


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMoves(Event):
    """A stall that was reported is over."""

    name: ClassVar[str] = "job moves again"
    default_level: ClassVar[str] = "info"

    stalled_seconds: float
    """How long nothing has moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeDurations(Event):
    """What one scope has taken since the server started; the last one replaces earlier ones."""

    name: ClassVar[str] = "scope durations"
    default_level: ClassVar[str] = "info"

    server: int
    """Pid of the server, which tells several on one host apart."""
    scopes: tuple[dict[str, Any], ...]
    """One entry: an event for each scope stays below the longest line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord(Event):
    """A record of the standard :mod:`logging` as an event."""

    name: ClassVar[str] = "log"
    default_level: ClassVar[str] = "warning"

    severity: str
    logger: str
    message: str
    exception: str | None = None

    @property
    def level(self) -> str:
        """``warning`` or ``error``."""
        return self.severity


def event_names() -> list[str]:
    """Names of all events that may be logged, sorted: for ``--include`` and ``--exclude``."""
    found = [*vars(server_events).values(), *globals().values()]
    kinds = [value for value in found if isinstance(value, type) and issubclass(value, Event)]
    return sorted({kind.name for kind in kinds if hasattr(kind, "name")})
