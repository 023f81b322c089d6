"""The wire as its description has it (``timers/transport/wire.py``), read the plain and slow way.

One line at a time, by :func:`json.loads`, without any memory of other lines: what the decoder of
the server makes of a line must be the same, however the line came and whatever came before it.
"""

from __future__ import annotations

import json
import math
from typing import Any

from timers.transport.wire import MAX_LINE_BYTES, Message

__all__ = ["Refused", "as_torch", "nesting", "of_line", "of_lines"]

_OPTIONAL: dict[str, tuple[type, ...]] = {
    "start_time": (int,),
    "thread": (int,),
    "deadline_ns": (int,),
    "after": (int, float),
    "warn_after": (int, float),
    "error": (str,),
    "traceparent": (str,),
    "span_id": (str,),
}
"""The optional keys that may be null, and what else they may be."""
_MAX_SECONDS = (2**63 - 1) // 10**9
_BOUNDS = {
    "deadline_ns": 2**63,
    "start_time": 2**63,
    "thread": 2**31,
    "after": _MAX_SECONDS,
    "warn_after": _MAX_SECONDS,
}
"""What a number of an optional key is below; none is negative."""
_MOST_OF_ERROR = 200


class Refused(Exception):  # noqa: N818  # an answer rather than an error
    """A line is not a request, and this is the reason."""


def of_lines(data: bytes) -> list[tuple[Message | None, str | None]]:
    """What each complete line of ``data`` is."""
    return [of_line(line) for line in data.split(b"\n")[:-1]]


def of_line(line: bytes) -> tuple[Message | None, str | None]:
    """The message of a line without its newline, and why it is rejected.

    Both, when a whole request follows a half one in the same line.
    """
    try:
        return _whole(line), None
    except Refused as refused:
        reason = str(refused)
    start = line.rfind(b'{"version"')
    if start > 0:
        try:
            return _whole(line[start:]), reason
        except Refused:
            pass
    return None, reason


def _whole(line: bytes) -> Message:
    if len(line) + 1 > MAX_LINE_BYTES:
        raise Refused("too_long")
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise Refused("not_utf8") from None
    if not text:
        raise Refused("empty")
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused("not_json") from None
    if not isinstance(value, dict):
        raise Refused("not_an_object")
    return _checked(value)


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _checked(value: dict[str, Any]) -> Message:
    for key in ("pid", "scope_id", "expiration_time", "signal"):
        if key not in value:
            raise Refused("missing_key")
    if value.get("version", 1) != 1:
        raise Refused("unsupported_version")
    pid, scope_id, signal = value["pid"], value["scope_id"], value["signal"]
    expiration_time = value["expiration_time"]
    _want(pid, int)
    _want(signal, int)
    _want(scope_id, str)
    _want(expiration_time, int, float)
    _within(-(2**31) < pid < 2**31 and -64 <= signal <= 64)
    # A float is compared as it is: 1e999 is infinite, and no moment.
    _within(-math.inf < expiration_time < _MAX_SECONDS)
    return Message(pid, _writable(scope_id), expiration_time, signal, **_extras(value))


def _extras(value: dict[str, Any]) -> dict[str, Any]:
    extras = {key: value.get(key) for key in _OPTIONAL}
    for key, kinds in _OPTIONAL.items():
        if extras[key] is not None:
            _want(extras[key], *kinds)
    for key in ("nested", "leave"):
        extras[key] = value.get(key, False)
        _want(extras[key], bool)
    for key, bound in _BOUNDS.items():
        _within(0 <= (extras[key] or 0) < bound)
    if extras["error"] is not None:
        extras["error"] = _writable(extras["error"])[:_MOST_OF_ERROR]
    extras["missed"] = _missed(value.get("missed"))
    return extras


def _missed(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    _want(value, list)
    assert isinstance(value, list)
    if [type(count) for count in value] != [int, int]:
        raise Refused("wrong_type")
    acquires, releases = value
    _within(0 <= acquires < 2**31 and 0 <= releases < 2**31)
    return acquires, releases


def _want(value: object, *kinds: type) -> None:
    if type(value) not in kinds:  # true is no number here
        raise Refused("wrong_type")


def _within(condition: bool) -> None:
    if not condition:
        raise Refused("out_of_range")


def _writable(text: str) -> str:
    return "".join(
        f"\\u{ord(char):04x}" if 0xD800 <= ord(char) <= 0xDFFF else char for char in text
    )


def nesting(data: bytes) -> int:
    """At most how deep lists and objects are nested: brackets, those in strings as well."""
    return max(data.count(b"["), data.count(b"{"))


def as_torch(line: bytes) -> tuple[Any, Any, Any, Any] | None:
    """The four facts that the reader of torch's server takes from a line; None: it raises.

    It reads text (so a carriage return ends a line, too), takes any JSON that Python takes, with
    NaN and Infinity, and checks no type.
    """
    try:
        request = json.loads(line.decode("utf-8"))
        return (
            request["pid"],
            request["scope_id"],
            request["expiration_time"],
            request["signal"],
        )
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        return None
