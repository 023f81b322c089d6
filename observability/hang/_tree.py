"""Stacks of many workers merged into one tree, outermost call first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from observability.samples.frames import frame_line, plain_file, plain_function

from .types import Node

if TYPE_CHECKING:
    from collections.abc import Iterable

    from timers.stacks.take import Frame

MAX_NODES = 400
MAX_DEPTH = 60


@dataclass(slots=True)
class _Growing:
    frame: str
    count: int = 0
    suspects: int = 0
    children: dict[tuple[object, ...], _Growing] = field(default_factory=dict)


def merge(stacks: Iterable[tuple[tuple[Frame, ...], int, int]]) -> tuple[Node, ...]:
    """Merge ``stacks``: each its frames (innermost first), how many workers, how many suspects.

    Of a stack deeper than 60 calls the innermost are kept. The tree has at most 400 nodes, those
    of suspects and those with most workers first.
    """
    root = _Growing("")
    for frames, count, suspects in stacks:
        node = root
        for frame in reversed(frames[:MAX_DEPTH]):
            key = (plain_file(frame.file), plain_function(frame.function), frame.line)
            below = node.children.get(key)
            if below is None:
                below = node.children[key] = _Growing(frame_line(frame))
            below.count += count
            below.suspects += suspects
            node = below
    budget = [MAX_NODES]
    return _frozen(root, budget)


def _frozen(node: _Growing, budget: list[int]) -> tuple[Node, ...]:
    below = sorted(node.children.values(), key=lambda each: (-each.suspects, -each.count))
    kept = []
    for each in below:
        if budget[0] <= 0:
            break
        budget[0] -= 1
        kept.append(Node(each.frame, each.count, each.suspects, _frozen(each, budget)))
    return tuple(sorted(kept, key=lambda each: -each.count))
