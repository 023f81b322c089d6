"""Functions whose ``except`` is for all of them, their first and last instruction included.

What comes from outside (a signal's handler that raises, ``PyThreadState_SetAsyncExc``) is raised
where CPython looks for it, and a function's first instruction (``RESUME``) is such a place: no
``try`` that one can write encloses it. Where an exception goes is in a table of the code object,
``co_exceptiontable`` (Objects/exception_handling_notes.txt in CPython, the same from 3.11 to 3.14).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FunctionType
    from typing import Any

    F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["to_its_end", "to_its_ends"]

_MORE, _FIRST, _BITS = 0x40, 0x80, 6


class _Range(NamedTuple):
    """Where exceptions go that are raised by the instructions from ``start`` to ``end``."""

    start: int
    end: int
    target: int
    depth: int
    """Twice how much stays on the stack, and 1 for a handler that is told the instruction."""


def to_its_ends(function: F) -> F:
    """Have the ``except`` of ``function`` handle what any of its instructions raises.

    :param function: all that it does is in one ``try``, whose ``except`` needs nothing but the
        arguments. Changed in place; left alone where its table is no such table.
    """
    return _covered(function, from_first=True)


def to_its_end(function: F) -> F:
    """Have the last ``except`` of ``function`` handle what is raised where its ``try`` is left."""
    return _covered(function, from_first=False)


def _covered(function: F, *, from_first: bool) -> F:
    plain: FunctionType = function  # type: ignore[assignment]  # it is one
    table = getattr(plain.__code__, "co_exceptiontable", b"")
    try:
        found = list(_read(table))
        if not found or _written(found) != table:
            return function
    except RuntimeError:  # it ended in the middle
        return function
    handler = max((each.target for each in found if each.depth == 0), default=0)
    first = min((each.start for each in found if each.target == handler), default=0)
    covered, gaps = 0 if from_first else first, []
    for each in found:
        if covered < min(each.start, handler):
            gaps.append(_Range(covered, min(each.start, handler), handler, 0))
        covered = max(covered, each.end)
    if covered < handler:
        gaps.append(_Range(covered, handler, handler, 0))
    plain.__code__ = plain.__code__.replace(co_exceptiontable=_written(sorted([*found, *gaps])))
    return function


def _read(table: bytes) -> Iterator[_Range]:
    position = iter(table)
    for first in position:
        start = _number(first, position)
        length, target, depth = (_number(next(position), position) for _ in range(3))
        yield _Range(start, start + length, target, depth)


def _number(byte: int, others: Iterator[int]) -> int:
    number = byte & (_MORE - 1)
    while byte & _MORE:
        byte = next(others)
        number = number << _BITS | byte & (_MORE - 1)
    return number


def _written(ranges: Iterable[_Range]) -> bytes:
    table = bytearray()
    for each in ranges:
        first = len(table)
        for number in (each.start, each.end - each.start, each.target, each.depth):
            digits = [number & (_MORE - 1)]
            while number := number >> _BITS:
                digits.append(number & (_MORE - 1) | _MORE)
            table += bytes(reversed(digits))
        table[first] |= _FIRST
    return bytes(table)
