"""A job for torchrun with PyTorch's own timers only; rank 1 gets stuck on the first attempt."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

# By name: PyTorch is an optional dependency, also of the type checker.
timer: Any = importlib.import_module("torch.distributed.elastic.timer")

STEPS = 20


def stuck_here() -> None:
    while True:
        signal.pause()


def main() -> None:
    rank, attempt = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
    timer.configure(timer.FileTimerClient(os.environ["TORCHELASTIC_TIMER_FILE"]))
    for _ in range(STEPS):
        with timer.expires(after=3600, scope="step"):
            pass
    if attempt == "0":
        # The other waits for rank 1, as it would in a collective operation.
        with timer.expires(after=1 if rank == "1" else 3600, scope="all_reduce"):
            stuck_here()
    sys.stdout.write(f"rank {rank} done on attempt {attempt}\n")


if __name__ == "__main__":
    main()
