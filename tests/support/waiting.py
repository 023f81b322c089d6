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

__all__ = ["eventually"]


def eventually(probe: Callable[[], T | None], what: str = "", timeout: float = 30.0) -> T:
    """Call ``probe`` until it answers something true, and return that; fail after ``timeout``.

    The bound is generous because machines are slow and shared; a passing test never waits for it.
    """
    began = time.monotonic()
    while True:
        answer = probe()
        if answer:
            return answer
        waited = time.monotonic() - began
        if waited > timeout:
            raise AssertionError(f"not within {timeout:g} s: {what or probe!r} (last: {answer!r})")
        time.sleep(min(max(_FIRST_SECONDS, _SHARE * waited), _LONGEST_SECONDS))
