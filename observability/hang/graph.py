"""The wait-for graph: who waits for whom, by which evidence, and where the chains end.

Nodes are the workers of a run, by their position in it, and the operations that several of them
meet in: an operation waits for those that have not joined it. A guess never outweighs a proof:
of the edges that leave a node only the surest count. Where a chain ends, and where several
workers wait for each other in a circle, is what a verdict is made of.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Edge", "End", "Evidence", "Meeting", "Node", "Strength", "ends_of"]


class Evidence(enum.StrEnum):
    """What an edge rests on; the value is how a report names it."""

    RECORDER = "the flight recorder"
    KERNEL = "the kernel"
    LOCKS = "/proc/locks"
    STACKS = "their stacks"


class Strength(enum.IntEnum):
    """How sure an edge is."""

    GUESS = 1
    LIKELY = 2
    PROOF = 3


@dataclass(frozen=True, slots=True)
class Meeting:
    """An operation in which several workers meet."""

    name: str
    """In words that go into a sentence: ``all_reduce #26 of default_pg (68,362 floats)``."""
    key: tuple[object, ...] = ()
    """Tells meetings of the same name apart."""


Node = int | Meeting
"""A worker, by its position among the cases of a run, or a meeting of several."""


@dataclass(frozen=True, slots=True)
class Edge:
    """``source`` waits for ``target``."""

    source: Node
    target: Node
    evidence: Evidence
    strength: Strength
    why: str = ""
    """Of the worker at the target, as words after "it": ``has not joined barrier #3``."""


@dataclass(frozen=True, slots=True)
class End:
    """Where chains of waits end: one worker, or several that wait for each other in a circle."""

    workers: tuple[int, ...]
    """Ordered; empty for a meeting that all have joined."""
    meetings: tuple[Meeting, ...]
    """Those of a circle, and the meeting that is an end itself."""
    strength: Strength
    """That of the weakest edge on the surest way there."""
    edges: tuple[Edge, ...]
    """Those that lead there from outside and, for a circle, those inside."""
    waiting: tuple[int, ...]
    """The workers whose chains end here, ordered; those of the end itself are not among them."""

    @property
    def is_cycle(self) -> bool:
        """Whether its workers wait for each other."""
        return len(self.workers) > 1


def ends_of(edges: Iterable[Edge]) -> tuple[End, ...]:
    """Follow all chains; return where they end, those with most waiting workers first.

    An edge that leads back to where it comes from says nothing and is dropped.
    """
    out: defaultdict[Node, list[Edge]] = defaultdict(list)
    for edge in edges:
        if edge.source != edge.target:
            out[edge.source].append(edge)
    kept: dict[Node, tuple[Edge, ...]] = {}
    for node, leaving in out.items():
        if len(leaving) == 1:
            kept[node] = (leaving[0],)  # as nearly all have of thousands
            continue
        most = max(edge.strength for edge in leaving)
        kept[node] = tuple(edge for edge in leaving if edge.strength is most)
    components, number_of = _components(kept)
    into: defaultdict[Node, list[Edge]] = defaultdict(list)
    for edge in chain.from_iterable(kept.values()):
        into[edge.target].append(edge)
    found = [
        _end(members, into)
        for number, members in enumerate(components)
        if all(number_of[edge.target] == number for node in members for edge in kept.get(node, ()))
    ]
    return tuple(sorted(found, key=lambda end: (-len(end.waiting), end.workers)))


def _end(members: tuple[Node, ...], into: Mapping[Node, list[Edge]]) -> End:
    """Walk back from an end: who waits for it, and how sure is the surest way."""
    inside = set(members)
    circle = [edge for node in members for edge in into[node] if edge.source in inside]
    doubt = min((edge.strength for edge in circle), default=Strength.PROOF)
    best: dict[Node, Strength] = dict.fromkeys(members, doubt)
    queue = list(members)
    while queue:
        node = queue.pop()
        for edge in into[node]:
            strength = min(best[node], edge.strength)
            if strength > best.get(edge.source, 0):
                best[edge.source] = strength
                queue.append(edge.source)
    waiting = tuple(sorted(n for n in best if isinstance(n, int) and n not in inside))
    direct = tuple(edge for node in members for edge in into[node])
    reached = [best[node] for node in waiting]
    return End(
        workers=tuple(sorted(n for n in members if isinstance(n, int))),
        meetings=tuple(node for node in members if isinstance(node, Meeting)),
        strength=max(reached, default=doubt),
        edges=direct,
        waiting=waiting,
    )


def _components(
    edges: Mapping[Node, tuple[Edge, ...]],
) -> tuple[list[tuple[Node, ...]], dict[Node, int]]:
    """Find the strongly connected components (Tarjan, without recursion)."""
    order: dict[Node, int] = {}
    low: dict[Node, int] = {}
    component_of: dict[Node, int] = {}
    components: list[tuple[Node, ...]] = []
    path: list[Node] = []
    for root in edges:
        if root in order:
            continue
        work = [(root, iter(edges.get(root, ())))]
        order[root] = low[root] = len(order)
        path.append(root)
        while work:
            node, left = work[-1]
            for edge in left:
                target = edge.target
                if target not in order:
                    order[target] = low[target] = len(order)
                    path.append(target)
                    work.append((target, iter(edges.get(target, ()))))
                    break
                if target not in component_of:
                    low[node] = min(low[node], order[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == order[node]:
                    members = path[path.index(node) :]
                    del path[-len(members) :]
                    component_of.update(dict.fromkeys(members, len(components)))
                    components.append(tuple(members))
    return components, component_of
