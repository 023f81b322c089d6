"""Enters blocks of 1 to 50 ms as fast as it can: racing.py PATH BLOCKS OVERSTAYS SEED.

Some blocks end shortly before their deadline. In some it stays until there is a line on stdin, and
says "stays" before. At the end it says, as JSON, how many blocks were certainly left in time, and
how many took longer than that.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from time import monotonic_ns

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timers

AFTERS = (0.001, 0.002, 0.01, 0.05)
NEARLY = 0.004
"""How many blocks last until shortly before their deadline."""


def main() -> None:
    blocks, overstays = int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(int(sys.argv[4]))
    timers.configure(timers.SocketTimerClient(sys.argv[1], signal=0))
    late = 0
    stays = set(chance.sample(range(blocks), overstays))
    print("ready", flush=True)
    for number in range(blocks):
        after = chance.choice(AFTERS)
        began = monotonic_ns()
        until = began + int(after * 1e9 * chance.uniform(0.8, 0.99))
        is_nearly = chance.random() < NEARLY
        with timers.expires(after, f"of {after * 1e3:g} ms"):
            if number in stays:
                print("stays", flush=True)
                sys.stdin.readline()
            elif is_nearly:
                while monotonic_ns() < until:
                    pass
        # Measured from before the entry to after the end: more than the block itself took.
        late += monotonic_ns() - began >= after * 1e9
    print(json.dumps({"late": late}), flush=True)


if __name__ == "__main__":
    main()
