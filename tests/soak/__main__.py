"""Load a real service for a while and check an exact account: ``python -m tests.soak``.

From the top of the tree. Ctrl-C ends the load early and gives the account all the same. The exit
status is 0 when everything was counted exactly once and nothing grew, and else 1.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# What follows is found through the line above.
from .plan import PAIRS
from .run import soak
from .table import as_json, as_text


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of load; default 10")
    parser.add_argument("--pair", choices=PAIRS, default="both", help="what workers use")
    parser.add_argument("--seed", type=int, help="of the plan; by default another each time")
    parser.add_argument("--workers", type=int, default=6, help="at work at a time; default 6")
    parser.add_argument("--json", action="store_true", help="the result as one object")
    parser.add_argument("--keep", type=Path, help="leave journals and events in this directory")
    options = parser.parse_args()
    if options.workers < 1 or options.minutes < 0:
        parser.error("--workers is at least 1, --minutes at least 0")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    result = soak(
        options.pair,
        minutes=options.minutes,
        seed=random.randrange(2**31) if options.seed is None else options.seed,
        workers=options.workers,
        should_stop=stop.is_set,
        keep=options.keep,
        say=lambda words: print(words, file=sys.stderr, flush=True),
    )
    print(as_json(result) if options.json else as_text(result), flush=True)
    return 1 if result.differences else 0


if __name__ == "__main__":
    sys.exit(main())
