"""An optional part in C: entering and leaving a plain block in a fraction of the time.

The map::

    _blocks.c    what expires() does for a plain block on a board; all else is left to the class
    build.py     has an installation compile it, where there is a C compiler

``TIMERS_ACCELERATOR=off`` in the environment does without: to compare, to debug, and when a package
is built (``pip wheel``, ``python -m build``) that is to be the same everywhere.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timers.worker.slots.slot import Slot

__all__ = ["accelerated"]


def accelerated(expires: type, slot: type[Slot], names: dict[str, Any], look: int) -> Any:
    """Return what to use in place of ``expires``: a subclass of it, or itself if there is none.

    :param slot: the class of slots.
    :param names: of the module in which ``_client`` is the configured client.
    :param look: which word of a board says when the server looks next.
    """
    if os.environ.get("TIMERS_ACCELERATOR", "").lower() == "off":
        return expires
    try:
        blocks = importlib.import_module("._blocks", __name__)
    except ImportError:  # a pure installation, or one for another interpreter
        return expires
    copied = ("__module__", "__qualname__", "__doc__")
    namespace = {name: getattr(expires, name) for name in copied} | {"__slots__": ()}
    return blocks.accelerated(expires, slot, names, namespace, look)
