"""A worker that uses the pipe and the socket of one server, and gets stuck in both.

TIMERS_FILE and TIMERS_SOCKET say where they are.
"""

from __future__ import annotations

import os
import time

import timers


def main() -> None:
    pipe = timers.FileTimerClient(os.environ["TIMERS_FILE"])
    socket = timers.SocketTimerClient(os.environ["TIMERS_SOCKET"])
    with (
        timers.expires(60, "open", client=pipe),
        timers.expires(0.5, "by pipe", client=pipe),
        timers.expires(0.5, "by socket", client=socket),
    ):
        time.sleep(1000)


if __name__ == "__main__":
    main()
