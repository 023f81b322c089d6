"""A block as hooks make them, whose deadline is as short as a test wants it; then ends by itself.

``automatic.py SECONDS``: how long the block is open; its deadline is 0.2 seconds. With ``own`` it
ends in time, inside a block of the program's own with the same name, which gets stuck.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

import timers

blocks: Any = importlib.import_module("timers.auto._blocks")


def inside_its_own() -> None:
    with timers.expires(after=1, scope="save"):
        for _ in range(2):
            block = hook.begin("save")
            hook.end(block)
        print(block is not None, flush=True)
        time.sleep(100)


if __name__ == "__main__":
    hook = blocks.Hook("checkpoint")
    if sys.argv[1] == "own":
        inside_its_own()
    blocks.learned_seconds = lambda _scope, **_: 0.2
    block = hook.begin("save")
    print("ready", flush=True)
    time.sleep(float(sys.argv[1]))
    hook.end(block)
