"""From a dump of the Flight Recorder to :class:`~observability.recorder.types.Recording`.

The input was written by the stuck process: it may be cut, garbled, of another version, or made up.
Every function accepts any bytes; what is not understood is left out, and nothing in it is run.

The entries decide, never ``pg_status``, which lags behind them. NCCL says of an operation in its
``state`` how far it is; gloo leaves that at ``scheduled`` for ever and sets ``retired`` when it is
over. NCCL names the members of a group, gloo does not.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ._pickles import load_plain
from .types import GroupRecord, Operation, Progress, Recording

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_BYTES = 16 << 20
"""Of one dump: the default buffer of 2,000 entries takes 1 MB, with stacks 4 MB."""
_KEPT_BEFORE = 48
"""Collectives of each group before the first one that is not completed: a rank may be that far
behind, or may have completed an operation that others called differently."""
_KEPT_AFTER = 16
_MOST_ENTRIES = 20_000
_MOST_GROUPS = 64
_MOST_RANKS = 1 << 20
_MOST_SIZES = 8
_LARGEST = 1 << 62
_LONGEST_NAME = 80
_TRANSFER = re.compile(r"(send|recv) (\d{1,7})(?:->|<-)(\d{1,7})")
_STATES = {
    "scheduled": Progress.SCHEDULED,
    "started": Progress.STARTED,
    "completed": Progress.COMPLETED,
}


def from_json(data: bytes) -> Recording:
    """Read what the worker server answers.

    :raises ValueError: it is not a dump of the recorder.
    """
    return _read(data, json.loads)


def from_pickle(data: bytes) -> Recording:
    """Read what NCCL writes when it is asked through its pipe.

    :raises ValueError: it is not a dump of the recorder, or is not complete yet.
    """
    return _read(data, load_plain)


def _read(data: bytes, load: Callable[[bytes], Any]) -> Recording:
    if len(data) > MOST_BYTES:
        raise ValueError(f"a dump of {len(data)} bytes")
    try:
        found = load(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict) or not isinstance(found.get("entries"), list):
        raise ValueError("no dump of the recorder: it has no entries")  # noqa: TRY004  # as its callers expect of bad bytes
    groups: dict[tuple[str, str], _Growing] = {}
    config = found.get("pg_config")
    for entry in found["entries"][-_MOST_ENTRIES:]:
        if isinstance(entry, dict):
            _take(entry, groups)
    _name_members(config if isinstance(config, dict) else {}, groups)
    return Recording(
        groups=tuple(group.frozen() for group in groups.values()),
        timed=any(group.timed for group in groups.values()),
    )


class _Growing:
    """One group while its entries are read."""

    def __init__(self, name: str, description: str, backend: str) -> None:
        self.name = name
        self.backend = backend
        self.description = description
        self.ranks: tuple[int, ...] = ()
        self.collectives: dict[int, Operation] = {}
        self.transfers: list[Operation] = []
        self.timed = False

    def frozen(self) -> GroupRecord:
        numbers = sorted(self.collectives)
        done = [self.collectives[number].progress is Progress.COMPLETED for number in numbers]
        pending = done.index(False) if False in done else len(numbers)
        kept = numbers[max(0, pending - _KEPT_BEFORE) : pending + _KEPT_AFTER]
        return GroupRecord(
            name=self.name,
            backend=self.backend,
            description=self.description,
            ranks=self.ranks,
            collectives=tuple(self.collectives[number] for number in kept),
            last=numbers[-1] if numbers else 0,
            transfers=tuple(self.transfers[:_KEPT_AFTER]),
        )


def _take(entry: dict[str, Any], groups: dict[tuple[str, str], _Growing]) -> None:
    named = entry.get("process_group")
    if not isinstance(named, (list, tuple)) or not named:
        return
    name, description = _text(named[0]), _text(named[1] if len(named) > 1 else None)
    backend, _, title = _text(entry.get("profiling_name")).rpartition(":")
    group = groups.get((name, backend))
    if group is None:
        if len(groups) >= _MOST_GROUPS:
            return
        group = groups[name, backend] = _Growing(name, description, backend)
    started = _integer(entry.get("time_discovered_started_ns"))
    group.timed |= bool(started)
    transfer = _TRANSFER.match(title)
    if transfer is not None or entry.get("is_p2p") is True:
        if transfer is not None and _progress(entry) is not Progress.COMPLETED:
            number = _integer(entry.get("p2p_seq_id")) or 0
            group.transfers.append(_operation(entry, number, transfer[1], peer=int(transfer[3])))
        return
    number = _integer(entry.get("collective_seq_id")) or 0
    if number < 1:
        return
    operation = _operation(entry, number, _plain(title))
    known = group.collectives.get(number)
    if known is not None:  # parts of a coalesced operation: it is as far as the last of them
        operation = Operation(
            number,
            known.name,
            (known.sizes + operation.sizes)[:_MOST_SIZES],
            known.dtype,
            min(known.progress, operation.progress),
        )
    group.collectives[number] = operation


def _operation(
    entry: dict[str, Any], number: int, name: str, *, peer: int | None = None
) -> Operation:
    dtypes = entry.get("input_dtypes")
    dtype = _text(dtypes[0]) if isinstance(dtypes, (list, tuple)) and dtypes else ""
    return _same(number, name, _sizes(entry.get("input_sizes")), dtype, _progress(entry), peer)


_same = lru_cache(1 << 14)(Operation)
"""The ranks of a job call the same operations: one object for all of them."""


def _plain(title: str) -> str:
    # NCCL has no barrier: it reduces one element.
    return "barrier" if title == "all_reduce_barrier" else title or "an operation"


def _progress(entry: dict[str, Any]) -> Progress:
    found = _STATES.get(_text(entry.get("state")), Progress.SCHEDULED)
    gloo = not _text(entry.get("profiling_name")).startswith("nccl:")
    return Progress.COMPLETED if gloo and entry.get("retired") is True else found


def _sizes(value: object) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, (list, tuple)):
        return ()
    return tuple(
        tuple(_integer(size) or 0 for size in shape[:_MOST_SIZES])
        for shape in value[:_MOST_SIZES]
        if isinstance(shape, (list, tuple))
    )


def _name_members(config: dict[Any, Any], groups: dict[tuple[str, str], _Growing]) -> None:
    named = {
        _text(entry.get("name")): str(entry.get("ranks"))[: 8 * _MOST_RANKS]
        for entry in list(config.values())[:_MOST_GROUPS]
        if isinstance(entry, dict)
    }
    for group in groups.values():
        group.ranks = _members(named.get(group.name, ""))


@lru_cache(64)
def _members(text: str) -> tuple[int, ...]:
    """Read ``[0, 1, 2]``. The text is the same for all ranks of a group, which may be thousands."""
    return tuple(int(word) for word in re.findall(r"\d{1,7}", text)[:_MOST_RANKS])


def _integer(value: object) -> int | None:
    """Read a number, which JSON of the recorder sometimes has as a text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:  # noqa: PLR2004  # 64 bits
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST:
        return value
    return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        return ""
    return value[:_LONGEST_NAME].encode("utf-8", "replace").decode()
