"""Workers that do nothing useful, in every way that a person on call should know.

    workers.py PIPE KIND

- ``steady``: enters and leaves its scopes well in time;
- ``near``: uses most of its checkpoints' deadline more often than not, and sometimes writes
  nonsense into the pipe;
- ``stuck``: hangs in a collective after a while, as all its peers do;
- ``late``: stops its watchdog for some seconds, and hangs deaf to SIGTERM meanwhile;
- ``unkillable``: hangs in a scope, at a server whose kills do not work;
- ``still``: has no timer, and waits for an answer that does not come;
- ``busy``: begins with a burst of thousands of short scopes.

But for those that hang nobody is to overrun a deadline, however busy the machine is: a reap of one
more makes a hang report of its own, which rightly accuses nobody. So each deadline leaves a second
or more, and everybody else is at work when one hangs, which two samples show.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import signal
import socket
import sys
import time

import timers

BLOCK = 0.1
"""Seconds that an ordinary block takes."""
CALM_BLOCKS = 60
"""How many blocks go well before something goes wrong."""
BURST = 6000
"""Acquires and releases that fill the queue of a sink that is stuck."""
STOPPED_SECONDS = 3.0
_PR_SET_PDEATHSIG = 1


def block(scope: str, after: float, seconds: float) -> None:
    """Spend ``seconds`` in a scope, in small steps: who is sampled twice has moved."""
    end = time.monotonic() + seconds
    with timers.expires(after=after, scope=scope):
        for _ in range(math.ceil(seconds / BLOCK)):
            time.sleep(max(0.0, min(BLOCK, end - time.monotonic())))


def ordinary(number: int) -> None:
    """Do what every worker does all the time."""
    block("train_step", 3.0, BLOCK + BLOCK * (number % 3))
    block("all_reduce", 2.0, BLOCK)
    if number % 10 == 0:
        block("save_checkpoint", 5.0, 3 * BLOCK)


def near(number: int, pipe: str) -> None:
    """Come close to a deadline in two checkpoints of three."""
    block("train_step", 3.0, BLOCK)
    block("all_reduce", 2.0, BLOCK)
    block("save_checkpoint", 5.0, 4.1 if number % 3 else BLOCK)
    if number % 3 == 0:
        with open(pipe, "ab", buffering=0) as file:
            file.write(b"not a request\n")


def hang(scope: str, after: float) -> None:
    """Never leave a scope."""
    with timers.expires(after=after, scope=scope):
        while True:
            time.sleep(3600)


def late(pipe: str) -> None:
    """Have a deadline pass while the watchdog is stopped, and survive the first signal."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    timers.configure(timers.FileTimerClient(pipe, signal=signal.SIGTERM))
    with timers.expires(after=1.0, scope="train_step"):
        os.kill(os.getppid(), signal.SIGSTOP)
        time.sleep(STOPPED_SECONDS)
        os.kill(os.getppid(), signal.SIGCONT)
        while True:
            time.sleep(3600)


def main() -> None:
    """Work until killed, or until the service is gone."""
    pipe, kind = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if kind == "still":
        here, _there = socket.socketpair()
        here.recv(1)
    timers.configure(timers.FileTimerClient(pipe))
    for _ in range(BURST if kind == "busy" else 0):
        block("load_batch", 10.0, 0.0)
    for number in itertools.count():
        if kind == "near":
            near(number, pipe)
            continue
        ordinary(number)
        if kind == "busy":
            block("load_batch", 10.0, 0.0)
        if number < CALM_BLOCKS // 2:
            continue
        if kind == "stuck":
            hang("all_reduce", 0.5)
        if kind == "unkillable":
            hang("save_checkpoint", 1.0)
        if kind == "late":
            late(pipe)


if __name__ == "__main__":
    main()
