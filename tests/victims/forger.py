"""Sends an acquire in the name of another process, and waits.

Arguments: the path of the server's socket, the pid to name.
"""

from __future__ import annotations

import json
import sys
import time

from timers.linux import procfs
from timers.transport.socket_path import connect


def main() -> None:
    path, victim = sys.argv[1], int(sys.argv[2])
    connection = connect(path)
    message = {
        "version": 1,
        "pid": victim,
        "start_time": procfs.start_time(victim),
        "scope_id": "forged",
        "expiration_time": time.time(),
        "signal": 9,
    }
    connection.send(json.dumps(message).encode())
    sys.stdin.read()


if __name__ == "__main__":
    main()
