"""A recording to and from the fields of an event, so that several hosts' can be put together.

Of each group what is around its first operation that is not completed; of long lists the first.
Reading accepts anything: a line may come from another version, or be cut.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from observability.untrusted import items

from .types import GroupRecord, Operation, Progress, Recording

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["from_plain", "ranges", "ranges_text", "to_plain"]

_MOST_GROUPS = 8
_BEFORE, _AFTER = 2, 4
_MOST_RANKS = 1 << 20
_MOST_SHAPES = 4
_RANGE = re.compile(r"(\d{1,7})(?:-(\d{1,7}))?")


def to_plain(recording: Recording) -> dict[str, Any]:
    """Return ``recording`` as plain data of a few kilobytes at most."""
    # Those in which something is under way come first.
    ordered = sorted(recording.groups, key=lambda group: group.pending is None)
    return {
        "timed": recording.timed,
        "groups": [_group(group) for group in ordered[:_MOST_GROUPS]],
        **({"error": recording.error} if recording.error else {}),
    }


def _group(group: GroupRecord) -> dict[str, Any]:
    calls = group.collectives
    done = sum(each.progress is Progress.COMPLETED for each in calls)
    start = calls.index(group.pending) if group.pending else done
    kept = calls[max(0, start - _BEFORE) : start + _AFTER]
    return {
        "name": group.name,
        "backend": group.backend,
        "description": group.description,
        "ranks": ranges_text(group.ranks),
        "last": group.last,
        "collectives": [_operation(each) for each in kept],
        "transfers": [_operation(each) for each in group.transfers[:_AFTER]],
    }


def _operation(operation: Operation) -> list[Any]:
    shapes = [list(shape) for shape in operation.sizes[:_MOST_SHAPES]]
    return [
        operation.number,
        operation.name,
        operation.dtype,
        shapes,
        operation.progress.value,
        operation.peer,
    ]


def ranges(ranks: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and the last of ranks that follow each other, in the order they are in."""
    found: list[tuple[int, int]] = []
    for rank in ranks:
        if found and rank == found[-1][1] + 1:
            found[-1] = (found[-1][0], rank)
        else:
            found.append((rank, rank))
    return found


def ranges_text(ranks: Iterable[int]) -> str:
    """Write ranks as ``0-7,9``; in the order of a group, which says who a peer is."""
    return ",".join(f"{low}-{high}" if low != high else f"{low}" for low, high in ranges(ranks))


def from_plain(value: object) -> Recording | None:
    """Read what :func:`to_plain` made; None when it is nothing of the kind."""
    if not isinstance(value, dict):
        return None
    error = value.get("error")
    return Recording(
        groups=tuple(map(_group_from, items(value.get("groups"), dict)[:_MOST_GROUPS])),
        timed=value.get("timed") is True,
        error=error if isinstance(error, str) else None,
    )


def _group_from(fields: dict[str, Any]) -> GroupRecord:
    return GroupRecord(
        name=_text(fields.get("name")),
        backend=_text(fields.get("backend")),
        description=_text(fields.get("description")),
        ranks=_ranks(_text(fields.get("ranks"))),
        last=_integer(fields.get("last")) or 0,
        collectives=_operations(fields.get("collectives")),
        transfers=_operations(fields.get("transfers")),
    )


def _ranks(text: str) -> tuple[int, ...]:
    found: list[int] = []
    for word in text.split(","):
        pair = _RANGE.fullmatch(word)
        if pair is not None and len(found) < _MOST_RANKS:
            low, high = int(pair[1]), int(pair[2] or pair[1])
            found += range(low, min(high + 1, low + _MOST_RANKS))
    return tuple(found)


def _operations(value: object) -> tuple[Operation, ...]:
    found = []
    for entry in items(value, list):
        if len(entry) == 6:  # noqa: PLR2004  # as _operation makes it
            number, name, dtype, shapes, progress, peer = entry
            found.append(
                Operation(
                    number=_integer(number) or 0,
                    name=_text(name),
                    sizes=_shapes(shapes),
                    dtype=_text(dtype),
                    progress=Progress(min(_integer(progress) or 0, Progress.COMPLETED)),
                    peer=_integer(peer),
                )
            )
    return tuple(sorted(found, key=lambda operation: operation.number))


def _shapes(value: object) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(_integer(size) or 0 for size in shape) for shape in items(value, list))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _integer(value: object) -> int | None:
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
    return value if known and isinstance(value, int) else None
