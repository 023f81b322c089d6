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

__all__ = ["load_plain"]

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
        build(stack, _since_mark(stack) if count is None else _last(stack, count))
    elif name not in ("PROTO", "FRAME"):
        raise ValueError(f"not plain data: it asks for {name}")


def _since_mark(stack: list[Any]) -> list[Any]:
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _last(stack: list[Any], count: int) -> list[Any]:
    return [stack.pop() for _ in range(count)][::-1]


def _tuple(stack: list[Any], items: list[Any]) -> None:
    stack.append(tuple(items))


def _list(stack: list[Any], items: list[Any]) -> None:
    stack.append(items)


def _dict(stack: list[Any], items: list[Any]) -> None:
    stack.append(dict(zip(items[::2], items[1::2], strict=True)))


def _append(stack: list[Any], items: list[Any]) -> None:
    list.extend(stack[-1], items)


def _set(stack: list[Any], items: list[Any]) -> None:
    dict.update(stack[-1], zip(items[::2], items[1::2], strict=True))


_BUILDERS: dict[str, tuple[int | None, Callable[[list[Any], list[Any]], None]]] = {
    "EMPTY_TUPLE": (0, _tuple),
    "TUPLE1": (1, _tuple),
    "TUPLE2": (2, _tuple),
    "TUPLE3": (3, _tuple),
    "TUPLE": (None, _tuple),
    "LIST": (None, _list),
    "DICT": (None, _dict),
    "APPEND": (1, _append),
    "APPENDS": (None, _append),
    "SETITEM": (2, _set),
    "SETITEMS": (None, _set),
}
"""How many values each takes (None: all since the mark), and what it makes of them."""
