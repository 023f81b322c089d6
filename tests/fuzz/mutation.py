"""Make new inputs of old ones: bytes moved about, words put in, values in JSON replaced.

What only shuffles bytes hardly ever makes a valid request of another; what knows that a line is
JSON does.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

__all__ = ["json_line", "mutate"]

_ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    9,
    65,
    2**31,
    2**63,
    10**19,
    10**400,
    -(10**400),
    0.5,
    -0.0,
    1e15,
    1e308,
    float("nan"),
    float("-inf"),
    "",
    "x",
    "\x00",
    "\x1b[2J",
    "\ud800",
    "caf\u00e9 \U0001f600\u2028",
    "x" * 5000,
    [],
    [1, 2],
    [[[[]]]],
    {},
    {"event": "x"},
)
"""Values that stand where nobody expects them."""
_STEPS = 4


def mutate(
    random: Random, data: bytes, others: Sequence[bytes], tokens: Sequence[bytes], longest: int
) -> bytes:
    """A changed copy of ``data``, at most ``longest`` bytes long."""
    for _ in range(random.randint(1, _STEPS)):
        change = random.choice(_CHANGES)
        data = change(random, data, [*others, *tokens] or [b""])[:longest]
    return data


def _place(random: Random, data: bytes) -> int:
    return random.randint(0, len(data))


def _range(random: Random, data: bytes) -> tuple[int, int]:
    start = _place(random, data)
    return start, min(len(data), start + int(2 ** random.uniform(0, 9)))


def _flip(random: Random, data: bytes, words: Sequence[bytes]) -> bytes:
    del words
    if not data:
        return bytes([random.randrange(256)])
    place = random.randrange(len(data))
    return data[:place] + bytes([random.randrange(256)]) + data[place + 1 :]


def _put_in(random: Random, data: bytes, words: Sequence[bytes]) -> bytes:
    place = _place(random, data)
    return data[:place] + random.choice(words) + data[place:]


def _take_out(random: Random, data: bytes, words: Sequence[bytes]) -> bytes:
    del words
    start, end = _range(random, data)
    return data[:start] + data[end:]


def _repeat(random: Random, data: bytes, words: Sequence[bytes]) -> bytes:
    del words
    start, end = _range(random, data)
    return data[:start] + data[start:end] * random.choice((2, 2, 2, 3, 50)) + data[end:]


def _splice(random: Random, data: bytes, words: Sequence[bytes]) -> bytes:
    other = random.choice(words)
    return data[: _place(random, data)] + other[_place(random, other) :]


def json_line(random: Random, data: bytes, words: Sequence[bytes] = ()) -> bytes:
    """Replace, add or remove something in one line that is JSON; or change nothing."""
    del words
    lines = data.split(b"\n")
    number = random.randrange(len(lines))
    # The first bytes of many targets choose options: what is before the object stays.
    start = max(0, lines[number].find(b"{"))
    try:
        value = json.loads(lines[number][start:])
    except (ValueError, RecursionError):
        return data
    if not isinstance(value, dict) or not value:
        return data
    _change(random, value)
    lines[number] = lines[number][:start] + json.dumps(value).encode()
    return b"\n".join(lines)


def _change(random: Random, value: dict[str, Any]) -> None:
    holder: Any = value
    while True:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = random.choice(keys)
        inner = holder[key]
        if isinstance(inner, (dict, list)) and inner and random.random() < 0.8:
            holder = inner
            continue
        break
    what = random.random()
    if what < 0.7:
        holder[key] = random.choice(_ODD)
    elif what < 0.85:
        del holder[key]
    elif isinstance(holder, list):
        holder.extend(holder[:1] * random.choice((1, 2, 100)))
    else:
        holder[random.choice(list(value))] = inner


_CHANGES: tuple[Callable[[Random, bytes, Sequence[bytes]], bytes], ...] = (
    _flip,
    _put_in,
    _take_out,
    _repeat,
    _splice,
    json_line,
    json_line,
)
