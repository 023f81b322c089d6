"""A data-parallel job whose rank 0 has something long to do while the others wait for it.

``ranks.py WHAT SECONDS STRETCH [FILE]``: "evaluate", or "save" to a file that is slow to take it,
``STRETCH`` seconds at a time and for ``SECONDS`` in all; "stuck" for ever at the first time.
"""

from __future__ import annotations

import importlib
import itertools
import socket
import sys
import time
from typing import Any

# By name, so that a type checker needs neither PyTorch nor the minutes it takes to read it.
torch: Any = importlib.import_module("torch")
dist: Any = importlib.import_module("torch.distributed")
parallel: Any = importlib.import_module("torch.nn.parallel")

WHAT, SECONDS, STRETCH = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
STEPS = 5
TENSOR_SECONDS = 20.0
"""What the file takes one tensor in, at ``BYTES_PER_SECOND``."""
BYTES_PER_SECOND = 200_000


def evaluate(model: Any, seconds: float) -> None:
    """About a tenth of the time computes; the rest waits for data, as it were."""
    end = time.monotonic() + seconds
    with torch.no_grad():
        while time.monotonic() < end:
            burst = time.monotonic() + 0.004
            while time.monotonic() < burst:
                model(torch.ones(8, 64))
            time.sleep(0.04)


def save(seconds: float, path: str, *, at_once: bool) -> None:
    """In one write, or in as many as there are layers."""
    each = seconds if at_once else min(TENSOR_SECONDS, seconds / 4)
    size = int(BYTES_PER_SECOND * each / 4)
    count = int(seconds * BYTES_PER_SECOND / (4 * size))
    state = {f"layer{number}": torch.zeros(size) for number in range(count)}
    with open(path, "wb", buffering=0) as file:
        torch.save(state, file)


def read_shard() -> None:
    ours, _theirs = socket.socketpair()
    ours.recv(1)


def train() -> None:
    model = parallel.DistributedDataParallel(torch.nn.Linear(64, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    end = time.monotonic() + SECONDS
    left = torch.tensor([SECONDS])
    for number in itertools.count():
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.ones(8, 64)).pow(2).mean().backward()
            optimizer.step()
        if dist.get_rank() == 0:
            if WHAT == "evaluate":
                evaluate(model.module, min(STRETCH, left.item()))
            elif WHAT == "save":
                save(min(STRETCH, left.item()), sys.argv[4], at_once=number % 2 == 0)
            else:
                read_shard()
        dist.barrier()
        left = torch.tensor([end - time.monotonic()])
        dist.broadcast(left, 0)
        if dist.get_rank() == 0:
            print(f"{WHAT}: {left.item():.0f} s left", flush=True)
        if left.item() <= 0:
            break


if __name__ == "__main__":
    dist.init_process_group("gloo")
    train()
    dist.destroy_process_group()
