"""What strangers wrote, made safe to show, to encode and to compute with.

Scopes, frames, names of threads and whole event files come from whoever runs a job. One module
decides what is done to them, so that no log, page or terminal has rules of its own.
"""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

__all__ = ["cut", "encodable", "items", "number", "printable", "replaced", "this_host"]

# What moves a cursor, ends a line or cannot be encoded: C0, DEL, C1, line separators, surrogates;
# and what is not seen but changes what is: marks of direction (UAX #9), of no width, byte order.
_UNPRINTABLE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\xad\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff"
    "\\ud800-\\udfff]"
)
_LARGEST_NUMBER = 1e15
"""No duration and no count is larger: thirty million years of seconds."""


def printable(text: str) -> str:
    """Return ``text`` with what could mislead a reader or break a line or terminal written out."""
    return _UNPRINTABLE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"  # noqa: PLR2004 - two hex digits


def cut(text: str, width: int) -> str:
    """Return ``text``, or its beginning when it has more characters than ``width``."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def encodable(text: str) -> str:
    """Return ``text`` with lone surrogates written out.

    ``os.fsdecode`` and JSON escapes make them; many readers of JSON refuse them, and no encoder of
    UTF-8 takes them. Everything else is kept: this is for machines.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def this_host() -> str:
    """Return the name of this machine, which may be any bytes, for people."""
    return printable(socket.gethostname())


def number(value: object) -> float | None:
    """Return ``value`` when it is a number that could be one of seconds, or a count, else None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if abs(value) <= _LARGEST_NUMBER else None  # NaN is not, either
    return None


def items(value: object, kind: type[T]) -> list[T]:
    """Return the items of one type that a list has; nothing of what is no list."""
    return [each for each in value if isinstance(each, kind)] if isinstance(value, list) else []


def replaced(value: Any, kind: type[T], change: Callable[[T], Any]) -> Any:
    """Return plain data (lists, dictionaries, leaves) with each leaf of one type changed.

    :raises RecursionError: for data nested deeper than about a thousand levels.
    """
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, dict):
        return {name: replaced(item, kind, change) for name, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, kind, change) for item in value]
    return value
