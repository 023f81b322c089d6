"""What the hang report says, as plain data."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import Any

from observability.samples.types import Pace

__all__ = ["Confidence", "Group", "HangReport", "Node", "Suspect", "Verdict"]


class Verdict(enum.StrEnum):
    """What the stacks of a hung run show; the label of ``timers_hang_reports_total``."""

    ONE_SUSPECT = "one_suspect"
    """One worker is where it holds up the others, or is stopped or gone."""
    SEVERAL_SUSPECTS = "several_suspects"
    DIFFERENT_COLLECTIVES = "different_collectives"
    """Every worker waits for the others, but not in the same operation."""
    CYCLE = "cycle"
    """Workers wait for each other in a circle; none of them is to blame alone."""
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


MAX_GROUPS = 50
MAX_EXPIRED = 10
MAX_LISTED = 100
"""Workers that a group, and suspects that a report, list one by one in JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A worker that is named, and the line that matters."""

    pid: int | str
    host: str = ""
    rank: int | None = None
    local_rank: int | None = None
    name: str = ""
    """What users of its framework call it; empty where they have no name for it."""
    scope_id: str | None = None
    frame: str | None = None
    """``file:line function`` of the innermost call in code that is not a library's; of the child
    process, when that is the culprit. None when no stack is known."""
    why: str = ""
    """Words that follow the worker's name: ``is stopped``, ``sleeps``."""
    holds_up: str = ""
    """What the others miss of it: ``has not joined all_reduce #26 of default_pg``."""
    pace: Pace = Pace.UNKNOWN
    child_pid: int | None = None
    """The descendant that is stuck, when the worker only waits for it."""
    also: tuple[str, ...] = ()
    """More lines that matter: the other thread of a deadlock, where the child is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Workers that are in the same place."""

    what: str
    """What they do there, in words: ``in all_reduce``, ``sleeping``."""
    frame: str | None
    """The line that matters, as in :class:`Suspect`."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class HangReport:
    """What the stacks of all workers of a run show together."""

    verdict: Verdict
    confidence: Confidence
    reason: str
    """Why, and why not surer."""
    evidence: tuple[str, ...] = ()
    """What decided, the surest first: ``the flight recorder``, ``their stacks``."""
    sentence: str = ""
    """For people: names the rank and the line that matters, when there is one."""
    suspects: tuple[Suspect, ...] = ()
    """Empty unless the evidence is against them."""
    lagging: tuple[Suspect, ...] = ()
    """Those the others wait for without being to blame: they move, or may move."""
    expired: tuple[Suspect, ...] = ()
    """Those whose timer is past its deadline, whoever is to blame."""
    groups: tuple[Group, ...] = ()
    """The largest first."""
    tree: tuple[Node, ...] = ()
    """All stacks merged, outermost calls first."""
    workers: int = 0
    hosts: int = 0
    missing_ranks: tuple[int, ...] = ()
    """Ranks that must exist but were not seen."""
    unheard: tuple[str, ...] = ()
    """Hosts that did not answer a roll call, each with why: ``node3 (ranks 24-31) is silent``."""

    def to_dict(self, *, tree: bool = True) -> dict[str, Any]:
        """The report as plain data for JSON.

        Long lists are cut (each has its full count next to it): of 16,000 workers it is still
        some kilobytes.

        :param tree: whether to include the merged stacks, the largest part.
        """
        data: dict[str, Any] = {
            "verdict": self.verdict.value,
            "confidence": self.confidence.value,
            "reason": self.reason,
            "evidence": list(self.evidence),
            "sentence": self.sentence,
            "workers": self.workers,
            "hosts": self.hosts,
            "missing_ranks": list(self.missing_ranks[:MAX_LISTED]),
            "missing_ranks_count": len(self.missing_ranks),
            "unheard": list(self.unheard[:MAX_LISTED]),
            "suspects": [_plain(suspect) for suspect in self.suspects[:MAX_LISTED]],
            "suspects_count": len(self.suspects),
            "lagging": [_plain(suspect) for suspect in self.lagging[:MAX_LISTED]],
            "lagging_count": len(self.lagging),
            "expired": [_plain(suspect) for suspect in self.expired[:MAX_EXPIRED]],
            "expired_count": len(self.expired),
            "groups": [_plain_group(group) for group in self.groups[:MAX_GROUPS]],
            "groups_count": len(self.groups),
        }
        if tree:
            data["tree"] = [_plain_node(node) for node in self.tree]
        return data


def _plain(suspect: Suspect) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(suspect).items()
        if value not in (None, "", ())
    }


def _plain_group(group: Group) -> dict[str, Any]:
    data = {
        "what": group.what,
        "count": group.size,
        "frame": group.frame,
        "frames": list(group.frames[:60]),
        "workers": list(group.workers[:MAX_LISTED]),
        "ranks": list(group.ranks[:MAX_LISTED]),
        "suspected": group.suspected,
        "pace": group.pace.value,
    }
    return {name: value for name, value in data.items() if value is not None}


def _plain_node(node: Node) -> dict[str, Any]:
    return {
        "frame": node.frame,
        "count": node.count,
        "suspects": node.suspects,
        "children": [_plain_node(child) for child in node.children],
    }
