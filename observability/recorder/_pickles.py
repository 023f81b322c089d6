"""Read pickles of plain data: numbers, texts, lists, tuples and dictionaries, nothing else.

Decision: not :class:`pickle.Unpickler` with a ``find_class`` that refuses. That one runs nothing
either, but a few bytes make it allocate gigabytes (the index of a memo entry is the size of a
table). This one knows only the opcodes that plain data needs, and stops at any other.
"""

from __future__ import annotations

import pickletools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_OPCODES = 5_000_000
"""The recorder keeps 2,000 entries by default, of some 60 opcodes each."""
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINFLOAT", "FLOAT",
     "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "SHORT_BINSTRING", "BINSTRING",
     "STRING", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8")
)  # fmt: skip
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_MARK = object()


def load_plain(data: bytes) -> Any:
    """Return what ``data`` holds.

    :raises ValueError: it is no pickle, is cut, or holds more than plain data.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for count, (opcode, argument, _position) in enumerate(pickletools.genops(data)):
            if count > _MOST_OPCODES:
                raise ValueError("too long")
            if opcode.name == "STOP":
                return stack[-1]
            _run(opcode.name, argument, stack, memo)
    except (IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(f"not a pickle of plain data: {error!r}") from None
    raise ValueError("it does not end")


def _run(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    if name in _VALUES:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in _EMPTY:
        stack.append(_EMPTY[name]())
    elif name == "MARK":
        stack.append(_MARK)
    elif name in _PUTS:
        memo[len(memo) if argument is None else argument] = stack[-1]
    elif name in _GETS:
        stack.append(memo[argument])
    elif name in _BUILDERS:
        count, build = _BUILDERS[name]
        stack.append(build(_taken(stack, count)))
    elif name in _ADDERS:
        count, add = _ADDERS[name]
        items = _taken(stack, count)
        add(stack[-1], items)
    elif name not in ("PROTO", "FRAME"):
        raise ValueError(f"not plain data: it asks for {name}")


def _taken(stack: list[Any], count: int | None) -> list[Any]:
    """Take so many values off the stack; by default all since the mark."""
    if count is not None:
        return [stack.pop() for _ in range(count)][::-1]
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


_BUILDERS: dict[str, tuple[int | None, Callable[[list[Any]], Any]]] = {
    "EMPTY_TUPLE": (0, tuple),
    "TUPLE1": (1, tuple),
    "TUPLE2": (2, tuple),
    "TUPLE3": (3, tuple),
    "TUPLE": (None, tuple),
    "LIST": (None, list),
    "DICT": (None, _pairs),
}
"""How many values each takes, and what it makes of them."""
_ADDERS: dict[str, tuple[int | None, Callable[[Any, list[Any]], None]]] = {
    "APPEND": (1, list.extend),
    "APPENDS": (None, list.extend),
    "SETITEM": (2, lambda known, items: dict.update(known, _pairs(items))),
    "SETITEMS": (None, lambda known, items: dict.update(known, _pairs(items))),
}
"""Likewise, and how they are added to what is below them."""
