"""Wait for an outcome instead of sleeping for it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

__all__ = ["eventually"]


def eventually(probe: Callable[[], T | None], what: str = "", timeout: float = 30.0) -> T:
    """Call ``probe`` until it answers something true, and return that; fail after ``timeout``.

    The bound is generous because machines are slow and shared; a passing test never waits for it.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or probe!r} (last: {answer!r})")
        time.sleep(0.005)
