"""Call what may never return, for a bounded time.

A bound is one moment on the clock of :func:`time.monotonic`, handed down to whatever has to be done
by then: no part of the work adds a margin of its own.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HANDOVER_SECONDS", "call_until", "left"]

HANDOVER_SECONDS = 0.5
"""How long past its bound a step may take to return: one that keeps to the bound by itself reports
what it found by then, which is more than that it took too long."""

ResultT = TypeVar("ResultT")


def left(until: float) -> float:
    """Return the seconds until the moment ``until`` of time.monotonic(); 0 when it has passed."""
    return max(0.0, until - time.monotonic())


def call_until(until: float, step: Callable[[], ResultT], name: str) -> ResultT:
    """Return what ``step()`` returns, called on a thread that is abandoned at ``until``.

    A thread cannot be ended from outside: an abandoned one goes on as a daemon, and its result is
    ignored.

    :param until: a moment of time.monotonic().
    :param name: of the thread.
    :raises TimeoutError: it has not returned by then.
    :raises RuntimeError: no thread can be started.
    :raises BaseException: whatever ``step`` raises.
    """
    seconds = left(until)
    result: list[ResultT] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(step())
        except BaseException as error:  # noqa: BLE001  # raised again in the calling thread
            failure.append(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not result:
        raise TimeoutError(f"not finished within {seconds:g} s")
    return result[0]
