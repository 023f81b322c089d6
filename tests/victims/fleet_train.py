"""One rank of a job on several nodes: steps over gloo, until one rank fetches for ever.

Arguments: the rank that gets stuck in its first attempt, once the file of the second argument is
there; the deadline of the others' steps in seconds; that of the fetch, 0 for none.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import socket
import sys
import time
from datetime import timedelta
from typing import Any

import timers

torch: Any = importlib.import_module("torch")
dist: Any = importlib.import_module("torch.distributed")

ENOUGH = 3


def fetch_shard() -> None:
    ours, _theirs = socket.socketpair()
    ours.recv(1)


def main() -> None:
    culprit, signal, step_after, fetch_after = sys.argv[1:5]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    timers.configure_from_env()
    # Not by TORCHELASTIC_RESTART_COUNT, which is that of the node: one that only follows the
    # restart of another counts none.
    was_stuck = f"{signal}.once"
    first = not os.path.exists(was_stuck)
    step = 0
    while first or step < ENOUGH:
        if first and dist.get_rank() == int(culprit) and os.path.exists(signal):
            pathlib.Path(was_stuck).touch()
            if float(fetch_after):
                with timers.expires(after=float(fetch_after), scope="fetch"):
                    fetch_shard()
            fetch_shard()
        with timers.expires(after=float(step_after), scope="step"):
            dist.all_reduce(torch.zeros(8))
        step += 1
        time.sleep(0.05)
    print(f"rank {dist.get_rank()} finished", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
