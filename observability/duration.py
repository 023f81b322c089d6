"""Durations as people write them on a command line."""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar

import click

__all__ = ["Seconds"]

MAX_SECONDS = 7 * 24 * 3600
"""A week is more than anybody means."""


class Seconds(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """A duration: a number of seconds, or with its unit, as ``500ms``, ``5s``, ``2m``, ``1h``.

    :param zero: whether it may be 0.
    :param least: seconds, the shortest that is allowed.
    :param most: seconds, the longest.
    """

    name = "seconds"
    _UNITS: ClassVar[dict[str, float]] = {"ms": 1e-3, "s": 1, "m": 60, "min": 60, "h": 3600}

    def __init__(self, *, zero: bool = True, least: float = 0.0, most: float = MAX_SECONDS) -> None:
        self._zero = zero
        self._least, self._most = least, most

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it.

        :raises click.BadParameter: it is none, or out of bounds.
        """
        if isinstance(value, float):
            return value  # a default
        found = re.fullmatch(r"\s*([0-9.e+-]+)\s*([a-z]*)\s*", value)
        try:
            seconds = float(found[1]) * self._UNITS[found[2] or "s"] if found else math.nan
        except (ValueError, KeyError):
            seconds = math.nan
        if not self._least <= seconds <= self._most:  # NaN, too
            bounds = f"from {self._least:g} to {self._most} seconds"
            self.fail(
                f"{value!r} is no duration {bounds}, as 5, 5s, 500ms or 2m",
                param,
                ctx,
            )
        if seconds == 0 and not self._zero:
            self.fail("must be more than 0 seconds", param, ctx)
        return seconds
