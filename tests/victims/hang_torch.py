"""A job of torch ranks over gloo, started like ``hang_job.py``."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from victims.hang_job import die_with_parent, say

if TYPE_CHECKING:
    from collections.abc import Callable

# By name, so that a type checker needs neither PyTorch nor the minutes it takes to read it.
torch: Any = importlib.import_module("torch")
dist: Any = importlib.import_module("torch.distributed")
data: Any = importlib.import_module("torch.utils.data")
FORK = multiprocessing.get_context("fork")


class Records:
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> object:
        if index == 9:
            time.sleep(1000)
        return torch.zeros(1)


def watched(_worker: int) -> None:
    die_with_parent()


def never_entering() -> None:
    time.sleep(1000)


def data_loading() -> None:
    loader = data.DataLoader(Records(), batch_size=4, num_workers=2, worker_init_fn=watched)
    for _ in loader:
        pass


def gathering_instead() -> None:
    dist.all_gather([torch.zeros(3) for _ in range(dist.get_world_size())], torch.zeros(3))


def meet_all_reduce() -> None:
    dist.all_reduce(torch.zeros(3))


def run_rank(rank: int, size: int, store: str, odd: list[int], cause: Callable[[], None]) -> None:
    die_with_parent()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    say(rank=rank, pid=os.getpid(), thread=threading.get_native_id())
    if rank in odd:
        cause()
    meet_all_reduce()


def main() -> None:
    die_with_parent()
    size, _, cause, odd = int(sys.argv[1]), *sys.argv[2:5]
    ranks: list[int] = json.loads(f"[{odd}]")
    function: Any = globals()[cause]
    for rank in range(size):
        FORK.Process(target=run_rank, args=(rank, size, sys.argv[6], ranks, function)).start()
    signal.pause()


if __name__ == "__main__":
    main()
