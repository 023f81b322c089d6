"""Do something before each line that is run, as a signal's handler or another thread may."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["at_each_line"]


@contextmanager
def at_each_line(do: Callable[[], None]) -> Iterator[None]:
    """Call ``do`` before each line that this thread runs in functions that begin in the block."""
    before = sys.gettrace()
    this = sys._getframe()

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        del arg
        if frame.f_code is this.f_code or frame.f_code is do.__code__:
            return None
        if event == "line":
            do()
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
