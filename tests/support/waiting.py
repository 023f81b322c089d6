"""Wait for an outcome instead of sleeping for it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_FIRST_SECONDS = 0.005
_LONGEST_SECONDS = 0.1
_SHARE = 0.05
"""Of the time until now: whoever asks all the time keeps what it waits for from its work."""

__all__ = ["answered", "eventually"]


def answered(probe: Callable[[], T | None], timeout: float) -> T | None:
    """Call ``probe`` until it answers something true, and return that, or its last answer."""
    began = time.monotonic()
    while True:
        answer = probe()
        waited = time.monotonic() - began
        if answer or waited > timeout:
            return answer
        time.sleep(min(max(_FIRST_SECONDS, _SHARE * waited), _LONGEST_SECONDS))


def eventually(probe: Callable[[], T | None], what: str = "", timeout: float = 30.0) -> T:
    """Call ``probe`` until it answers something true, and return that; fail after ``timeout``.

    The bound is generous because machines are slow and shared; a passing test never waits for it.
    """
    if answer := answered(probe, timeout):
        return answer
    raise AssertionError(f"not within {timeout:g} s: {what or probe!r} (last: {answer!r})")
