"""Reset objects in a forked child: the parent's descriptors, locks and threads are not its own."""

from __future__ import annotations

import contextlib
import os
from typing import Protocol

from .living import Living

__all__ = ["Forked", "reset_in_child"]


class Forked(Protocol):
    """What has to be reset in a forked child."""

    def after_fork(self) -> None:
        """Give up what is the parent's. Called in the child, on its only thread."""
        ...


_living: Living[Forked] = Living()


def reset_in_child(thing: Forked) -> None:
    """Call ``thing.after_fork()`` in each forked child for as long as ``thing`` lives."""
    _living.add(thing)


def _reset() -> None:
    # A stack calls all of them whatever one raises, which is shown as "unraisable".
    with contextlib.ExitStack() as stack:
        for thing in _living.members():
            stack.callback(thing.after_fork)


os.register_at_fork(after_in_child=_reset)
