"""Ranks that meet at a barrier, of which one never comes: meeting.py RANKS ODD HOW AFTER PATIENCE.

HOW is ``silent`` (it waits for a socket that never answers) or ``slow`` (it works for long, and
moves). AFTER is the odd rank's deadline; the others allow PATIENCE times as much. Says "ready" once
the odd one is where it stays, and ends when its standard input does.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from typing import Any

import timers


def read_batch(loader: socket.socket) -> bytes:
    return loader.recv(1)


def first_half(until: float) -> None:
    while time.monotonic() < until:
        sum(range(1000))


def second_half(until: float) -> None:
    while time.monotonic() < until:
        max(range(1000))


def rank_main(
    barrier: Any, *, rank: int, odd: int, how: str, after: float, patience: float
) -> None:
    timers.configure_from_env()
    if rank == odd:
        loader, _silent = socket.socketpair()
        with timers.expires(after=after, scope="load"):
            print("ready", flush=True)
            if how == "silent":
                read_batch(loader)
            now = time.monotonic()
            first_half(now + after * 0.7)
            second_half(now + after * 100)
    with timers.expires(after=after * patience, scope="all_reduce"):
        barrier.wait()


def main() -> None:
    ranks, odd, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    after, patience = float(sys.argv[4]), float(sys.argv[5])
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(ranks)
    processes = []
    for rank in range(ranks):
        os.environ["RANK"] = str(rank)  # as torchrun does: a worker is started with its rank
        options = {"rank": rank, "odd": odd, "how": how, "after": after, "patience": patience}
        processes.append(context.Process(target=rank_main, args=(barrier,), kwargs=options))
        processes[-1].start()
    sys.stdin.read()
    for process in processes:
        process.kill()
        process.join()


if __name__ == "__main__":
    main()
