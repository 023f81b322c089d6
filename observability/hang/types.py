"""What the hang report says, as plain data."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Confidence", "Group", "Node", "Pace", "Suspect", "Verdict"]


class Verdict(enum.StrEnum):
    """What the stacks of a hung run show; the label of ``timers_hang_reports_total``."""

    ONE_SUSPECT = "one_suspect"
    """One worker is where it holds up the others, or is stopped or gone."""
    SEVERAL_SUSPECTS = "several_suspects"
    DIFFERENT_COLLECTIVES = "different_collectives"
    """Every worker waits for the others, but not in the same operation."""
    COMMON_WAIT = "common_wait"
    """No worker differs: what they wait for is elsewhere."""
    SLOW = "slow"
    """The one the others wait for still moves; perhaps the deadline is too short."""
    INCONCLUSIVE = "inconclusive"
    """The evidence is even, or missing."""


class Confidence(enum.StrEnum):
    """How far to trust a verdict."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Pace(enum.StrEnum):
    """Whether a worker got anywhere between several looks at it."""

    STUCK = "stuck"
    """The same frames and no CPU time."""
    SPINNING = "spinning"
    """The same function, with the CPU busy."""
    REPEATING = "repeating"
    """It sleeps in the same place, but not the same sleep: it asks for something again and again,
    or moves in small steps."""
    SLOW = "slow"
    """It moved."""
    UNKNOWN = "unknown"
    """Looked at once only, or the looks do not decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A worker to look at, and the line to look at."""

    pid: int | str
    host: str = ""
    rank: int | None = None
    local_rank: int | None = None
    scope_id: str | None = None
    frame: str | None = None
    """``file:line function`` of the innermost call in code that is not a library's; of the child
    process, when that is the culprit. None when no stack is known."""
    why: str = ""
    """Words that follow the worker's name: ``is stopped``, ``sleeps``."""
    pace: Pace = Pace.UNKNOWN
    child_pid: int | None = None
    """The descendant that is stuck, when the worker only waits for it."""
    also: tuple[str, ...] = ()
    """More lines worth a look: the other thread of a deadlock, where the child is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Workers that are in the same place."""

    what: str
    """What they do there, in words: ``in all_reduce``, ``sleeping``."""
    frame: str | None
    """The line to look at, as in :class:`Suspect`."""
    frames: tuple[str, ...]
    """The stack of one of them, innermost call first, ``file:line function``."""
    workers: tuple[str, ...]
    """Their names, ordered: ``rank 3``, or ``pid 4711 on node7`` for those without a rank."""
    ranks: tuple[int, ...]
    suspected: bool = False
    pace: Pace = Pace.UNKNOWN
    """Where all of its workers agree."""

    @property
    def size(self) -> int:
        """How many workers."""
        return len(self.workers)


@dataclass(frozen=True, slots=True)
class Node:
    """A call in the merged stacks, outermost first, and how many workers are in or below it."""

    frame: str
    count: int
    suspects: int
    children: tuple[Node, ...] = ()
