"""Wait for something that is bound to come, but not for ever."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["until"]


def until(
    probe: Callable[[], bool], what: str, seconds: float = 60.0, *, every: float = 0.001
) -> None:
    """Look every so many seconds.

    :raises RuntimeError: it did not come within ``seconds``.
    """
    give_up = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > give_up:
            raise RuntimeError(f"waited {seconds:g} s in vain: {what}")
        time.sleep(every)
