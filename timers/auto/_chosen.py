"""Deadlines of automatic blocks that somebody chose, in place of learned ones."""

from __future__ import annotations

import functools
import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

AFTER_VARIABLE = "TIMERS_AUTO_DEADLINES"
"""A JSON object: seconds by scope, or by kind for all scopes of a kind.

Not the variable of the option ``--auto-after``: a job may have a ``timers run`` within."""
_MOST_SECONDS = 7 * 24 * 3600.0


def chosen_text(chosen: Mapping[str, float]) -> str:
    """Write deadlines for :data:`AFTER_VARIABLE`.

    :param chosen: seconds by scope or by kind.
    :raises ValueError: one is not more than 0 seconds, or more than a week.
    """
    for name, seconds in chosen.items():
        if not _is_duration(seconds):
            raise ValueError(
                f"the deadline of {name!r} must be more than 0 seconds and at most a week"
                f" ({_MOST_SECONDS:.0f}), got {seconds!r}"
            )
    return json.dumps(dict(chosen))


def chosen_seconds(scope: str, kind: str | None) -> float | None:
    """Return the deadline that was chosen for ``scope``, else for its kind; None for neither."""
    chosen = _read(os.environ.get(AFTER_VARIABLE, ""))
    return chosen.get(scope, chosen.get(kind) if kind is not None else None)


@functools.lru_cache(maxsize=1)
def _read(text: str) -> dict[str, float]:
    try:
        plain = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        plain = {}
    found = plain.items() if isinstance(plain, dict) else ()
    return {name: float(seconds) for name, seconds in found if _is_duration(seconds)}


def _is_duration(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 < value <= _MOST_SECONDS  # NaN is neither
