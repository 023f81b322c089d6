"""Keep a line under a fixed size, whatever is in the event.

Decision: 16 KiB. The log drivers of Docker and containerd split longer lines (their buffers are
16 KiB), which breaks the JSON. It holds about 150 frames; a stack is cut from its outer end, the
thread to look at first, so what matters stays. The rest is in a dump file, when there is one.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["MAX_LINE_BYTES", "encode", "fit", "size"]

MAX_LINE_BYTES = 16 * 1024
"""Longest line that is ever written, with its newline."""

_LONG_STRING = 256
"""Longest JSON form of one string in a line whose strings have to be cut."""
_ESSENTIAL = (
    "event", "level", "timestamp", "run_id", "host", "message", "worker_pid", "scope_id", "outcome"
)  # fmt: skip
_MARK = "..."


def encode(value: Any) -> str:
    """``value`` as JSON in ASCII: one byte a character, and no control character in it.

    :raises ValueError: for NaN and infinities, which JSON does not have.
    """
    return json.dumps(value, allow_nan=False)


def size(fields: dict[str, Any]) -> int:
    """Return the length of the line, with its newline."""
    return len(encode(fields)) + 1


def fit(fields: dict[str, Any], room: int = MAX_LINE_BYTES) -> dict[str, Any]:
    """``fields`` itself when it fits into ``room`` bytes, else a shortened copy.

    What was shortened is marked by a field of its name with ``_truncated`` appended. Lists lose
    their end first, then long strings are cut, and last of all whole fields are left out.
    """
    if size(fields) <= room:
        return fields
    lists = [name for name, value in fields.items() if isinstance(value, list)]
    kept = {name: value for name, value in fields.items() if name not in lists}
    kept |= {f"{name}_truncated": True for name in lists}
    if size(kept) > room // 2:
        kept = _cut_strings(kept)
    while size(kept) > room:
        kept.pop(next(name for name in reversed(kept) if name not in _ESSENTIAL))
    for name in lists:
        # An entry costs its name, its colon and its comma, too.
        shorter = _head(fields[name], room - size(kept) - len(encode(name)) - 6)
        if shorter:
            kept[name] = shorter
        if shorter == fields[name]:
            del kept[f"{name}_truncated"]
    return kept


def _cut_strings(fields: dict[str, Any]) -> dict[str, Any]:
    shorter: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, str) and len(encode(value)) > _LONG_STRING:
            shorter[name] = _cut(value, _LONG_STRING)
            shorter[f"{name}_truncated"] = True
        else:
            shorter[name] = value
    return shorter


def _cut(text: str, room: int) -> str:
    """As much of ``text`` as fits, with a mark, into ``room`` bytes of JSON."""
    size = len(encode(_MARK))
    kept = []
    for character in text:
        size += len(encode(character)) - 2
        if size > room:
            break
        kept.append(character)
    return "".join(kept) + _MARK


def _head(items: list[Any], room: int) -> list[Any]:
    """As many items as fit into ``room`` bytes of JSON; the last one may itself be shortened."""
    kept: list[Any] = []
    room -= 2
    for item in items:
        size = len(encode(item)) + 2
        if size > room:
            shorter = _shorten(item, room - 2)
            if shorter is not None:
                kept.append(shorter)
            break
        kept.append(item)
        room -= size
    return kept


def _shorten(item: Any, room: int) -> Any:
    if isinstance(item, str) and room >= _LONG_STRING:
        return _cut(item, room)
    if isinstance(item, dict) and "frames" in item:
        frames = _head(item["frames"], room - len(encode({**item, "frames": []})))
        return {**item, "frames": frames} if frames else None
    return None
