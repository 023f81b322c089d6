"""What hosts send each other: JSON with a version, within bounds, or refused.

A store of a job has no passwords: whoever reaches it can write what they like. So each text has a
largest size, each value a type and a range, and what is refused is counted by its reason.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from observability.recorder.json import ranges_text
from observability.untrusted import number, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

VERSION = 1
MAX_PRESENCE = 4096
MAX_CALL = 4096
MAX_SUMMARY = 256 << 10
"""Characters. Of a host with eight ranks it is some 10,000."""
MAX_REPORT = 1 << 20
MAX_RANK = (1 << 20) - 1
_RANGE = re.compile(r"(\d{1,7})(?:-(\d{1,7}))?", re.ASCII)
_MAX_NAME = 255
_MAX_SECONDS = 3600.0


class RefusedError(ValueError):
    """A text that is not to be used.

    :param reason: one of :data:`timers.server.statistics.REJECTION_REASONS`.
    :param version: the one that it is of, where that is why.
    """

    def __init__(self, reason: str, detail: str, *, version: int | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.version = version


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """A watchdog that takes part."""

    host: str
    watchdog: str
    """Tells watchdogs apart, also two of one host."""
    ranks: tuple[int, ...] = ()
    """Of the workers of this host."""

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data for :func:`packed`."""
        return {"host": self.host, "watchdog": self.watchdog, "ranks": ranks_text(self.ranks)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any], *, most_ranks: int = MAX_PRESENCE) -> Presence:
        """Read what :meth:`to_plain` made, which may have more beside it.

        :raises RefusedError: it is none.
        """
        ranks = ranks_from(plain.get("ranks"), most=most_ranks)
        return cls(host=text_of(plain, "host"), watchdog=text_of(plain, "watchdog"), ranks=ranks)


@dataclass(frozen=True, slots=True, kw_only=True)
class RollCallSent:
    """A roll call that a host has announced."""

    host: str
    watchdog: str
    seconds: float
    """Until that host goes on without an answer."""

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data for :func:`packed`."""
        return {"host": self.host, "watchdog": self.watchdog, "seconds": round(self.seconds, 3)}

    @classmethod
    def from_text(cls, text: str) -> RollCallSent:
        """Read it.

        :raises RefusedError: it is none.
        """
        plain = parse(text, MAX_CALL)
        seconds = number(plain.get("seconds"))
        if seconds is None or not 0 <= seconds <= _MAX_SECONDS:
            raise RefusedError("out_of_range", "seconds of a roll call")
        return cls(
            host=text_of(plain, "host"), watchdog=text_of(plain, "watchdog"), seconds=seconds
        )


def packed(plain: dict[str, Any]) -> str:
    """Write plain data with the version of this protocol, in ASCII."""
    return json.dumps({"v": VERSION, **plain}, separators=(",", ":"))


def parse(text: str, most: int) -> dict[str, Any]:
    """Read what :func:`packed` made, and nothing larger than ``most`` characters.

    :raises RefusedError: it is something else, or of another version.
    """
    if len(text) > most:
        raise RefusedError("too_long", f"{len(text)} characters, at most {most} are read")
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        raise RefusedError("not_json", "no JSON") from None
    if not isinstance(plain, dict):
        raise RefusedError("not_an_object", "no JSON object")
    version = plain.get("v")
    if version != VERSION or isinstance(version, bool):
        known = version if isinstance(version, int) and 0 < version < 1 << 31 else None
        said = "no known version" if known is None else f"version {known}"
        raise RefusedError(
            "unsupported_version", f"{said}, this is version {VERSION}", version=known
        )
    return plain


def text_of(plain: dict[str, Any], name: str, *, most: int = _MAX_NAME) -> str:
    """Return a text that is there and not empty, safe to be shown.

    :raises RefusedError: there is none.
    """
    value = plain.get(name)
    if not isinstance(value, str) or not value:
        raise RefusedError("wrong_type", f"{name} is no text")
    if len(value) > most:
        raise RefusedError("too_long", f"{name} has {len(value)} characters, at most {most}")
    return printable(value)


def ranks_text(ranks: Iterable[int]) -> str:
    """Write ranks as ``0-7,9``."""
    return ranges_text(sorted(set(ranks)))


def ranks_from(value: object, *, most: int) -> tuple[int, ...]:
    """Read what :func:`ranks_text` made.

    :param most: how many ranks there may be.
    :raises RefusedError: it is something else, or there are more.
    """
    ranges = _ranges(value)
    if sum(last - first + 1 for first, last in ranges) > most:
        raise RefusedError("out_of_range", "ranks")
    return tuple(rank for first, last in ranges for rank in range(first, last + 1))


def ranks_count(value: object) -> int:
    """Return how many ranks a text stands for.

    :raises RefusedError: it is none of :func:`ranks_text`.
    """
    return sum(last - first + 1 for first, last in _ranges(value))


def _ranges(value: object) -> list[tuple[int, int]]:
    if not isinstance(value, str):
        raise RefusedError("wrong_type", "ranks are no text")
    found = []
    for word in filter(None, value.split(",")):
        pair = _RANGE.fullmatch(word)
        if pair is None:
            raise RefusedError("wrong_type", "ranks are no ranges")
        first, last = int(pair[1]), int(pair[2] or pair[1])
        if not first <= last <= MAX_RANK:
            raise RefusedError("out_of_range", "ranks")
        found.append((first, last))
    return found
