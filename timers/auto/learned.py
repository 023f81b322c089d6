"""Deadlines that follow from how long a job's blocks have taken before.

The server of ``timers run`` writes down the longest use of each scope, hangs left out, in a file
that ``TIMERS_LEARNED`` names (``observability/learning.py``). A worker reads it now and then. Until
it says something of a scope, the deadline is half an hour.
"""

from __future__ import annotations

import json
import math
import os
import time

__all__ = ["LEARNED", "LEARNED_VARIABLE", "UNKNOWN_SECONDS", "Learned", "learned_seconds"]

LEARNED_VARIABLE = "TIMERS_LEARNED"
UNKNOWN_SECONDS = 1800.0
"""Of a scope that nothing is known of; torch's own limit for most groups."""
SHORTEST_SECONDS = 60.0
MARGIN = 10.0
"""Times the longest use, where that is no more than :data:`UNKNOWN_SECONDS`."""
_LEAST_MARGIN = 2.0
_FEW = 20
"""With fewer uses than these, nothing is known."""
_READ_EACH_SECONDS = 60.0
_MOST_BYTES = 1 << 20
_MOST_SECONDS = 7 * 24 * 3600
"""A week is more than anybody waits; also keeps out what is no number."""


class Learned(float):
    """A duration in seconds that is found anew each time a block is made with it."""

    __slots__ = ()


LEARNED = Learned(UNKNOWN_SECONDS)
"""``expires(after=LEARNED)``: ten times the longest use so far, from one minute to half an hour
(and at least twice the longest use). Half an hour until 20 uses after the warm-up are known, and
wherever the job does not run under ``timers run``."""


class _File:
    def __init__(self) -> None:
        self._longest: dict[str, float] = {}
        self._next_look = -math.inf
        self._seen: tuple[str, int] | None = None

    def longest(self, scope: str) -> float | None:
        """Return the longest use of ``scope``, in seconds."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _READ_EACH_SECONDS
            self._look()
        return self._longest.get(scope)

    def _look(self) -> None:
        path = os.environ.get(LEARNED_VARIABLE)
        if not path:
            return
        try:
            seen = (path, os.stat(path).st_mtime_ns)
            if seen == self._seen:
                return
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                self._longest = _read(file.read(_MOST_BYTES))
            self._seen = seen
        except (OSError, ValueError):  # it is not there (yet), or is none
            return


_file = _File()


def learned_seconds(
    scope: str, *, shortest: float = SHORTEST_SECONDS, unknown: float = UNKNOWN_SECONDS
) -> float:
    """Return the deadline of ``scope``; see :data:`LEARNED`. From any thread.

    :param shortest: seconds; it is never less.
    :param unknown: seconds, for a scope that nothing is known of.
    """
    longest = _file.longest(scope)
    if longest is None:
        return max(unknown, shortest)
    wanted = max(min(MARGIN * longest, UNKNOWN_SECONDS), _LEAST_MARGIN * longest)
    return max(wanted, shortest)


def _read(text: bytes) -> dict[str, float]:
    """Read what is of use of such a file.

    :raises ValueError: it is none.
    """
    found = json.loads(text)
    scopes = found.get("scopes") if isinstance(found, dict) else None
    entries = scopes.items() if isinstance(scopes, dict) else ()
    return {scope: float(entry["longest_seconds"]) for scope, entry in entries if _is_known(entry)}


def _is_known(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    uses, longest = entry.get("uses"), entry.get("longest_seconds")
    if not isinstance(uses, int) or not isinstance(longest, int | float):
        return False
    return uses >= _FEW and 0 <= longest <= _MOST_SECONDS
