"""An optional part in C: what is done for each block, and for each board at each look.

The map::

    _blocks.c    what expires() does for a plain block on a board; all else is left to the class
    _boards.c    when the first block of a board is due, for the server
    build.py     has an installation compile them, where there is a C compiler

``TIMERS_ACCELERATOR=off`` in the environment does without: to compare, to debug, and when a package
is built (``pip wheel``, ``python -m build``) that is to be the same everywhere.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from timers.worker.slots.slot import Slot

__all__ = ["accelerated", "least_in_c"]


def accelerated(expires: type, slot: type[Slot], names: dict[str, Any], look: int) -> Any:
    """Return what to use in place of ``expires``: a subclass of it, or itself if there is none.

    :param slot: the class of slots.
    :param names: of the module in which ``_client`` is the configured client.
    :param look: which word of a board says when the server looks next.
    """
    blocks = _module("._blocks")
    if blocks is None:
        return expires
    copied = ("__module__", "__qualname__", "__doc__")
    namespace = {name: getattr(expires, name) for name in copied} | {"__slots__": ()}
    return blocks.accelerated(expires, slot, names, namespace, look)


def least_in_c() -> Callable[[memoryview, int, int, int, int], int] | None:
    """Return the function that finds the least of one value for each slot; None without it.

    It takes the words of a board, where the first value is, how many words further each next one
    is, where the first lead is, and how many slots there are.
    """
    boards = _module("._boards")
    return None if boards is None else boards.least


def _module(name: str) -> ModuleType | None:
    if os.environ.get("TIMERS_ACCELERATOR", "").lower() == "off":
        return None
    try:
        return importlib.import_module(name, __name__)
    except ImportError:  # a pure installation, or one for another interpreter
        return None
