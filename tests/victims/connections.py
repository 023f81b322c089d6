"""Hold connections to a timer server and say nothing: connections.py PATH COUNT.

Prints how many the server hung up on again, and ends with its standard input.
"""

from __future__ import annotations

import select
import sys

from timers.transport.socket_path import connect


def main() -> None:
    path, count = sys.argv[1], int(sys.argv[2])
    held = [connect(path) for _ in range(count)]
    print("ready", flush=True)
    for line in sys.stdin:  # asked for how many it holds by now
        assert line == "?\n"
        gone, _, _ = select.select(held, [], [], 0)
        print(len(held) - len(gone), flush=True)


if __name__ == "__main__":
    main()
