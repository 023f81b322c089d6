"""A block as hooks make them, whose deadline is as short as a test wants it; then ends by itself.

``automatic.py SECONDS``: how long the block is open; its deadline is 0.2 seconds.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

blocks: Any = importlib.import_module("timers.auto._blocks")

if __name__ == "__main__":
    blocks.learned_seconds = lambda _scope, **_: 0.2
    hook = blocks.Hook("checkpoint")
    block = hook.begin("save")
    print("ready", flush=True)
    time.sleep(float(sys.argv[1]))
    hook.end(block)
