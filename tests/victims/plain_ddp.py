"""A training script as people write them: data-parallel over gloo, and no word of timers in it.

``plain_ddp.py [STUCK] [STEPS]``: the rank that gets stuck in its second epoch (-1 for none), and
the steps of an epoch.
"""

from __future__ import annotations

import importlib
import socket
import sys
from typing import Any

# By name, so that a type checker needs neither PyTorch nor the minutes it takes to read it.
torch: Any = importlib.import_module("torch")
dist: Any = importlib.import_module("torch.distributed")
data: Any = importlib.import_module("torch.utils.data")
parallel: Any = importlib.import_module("torch.nn.parallel")

STUCK = int(sys.argv[1])
STEPS = int(sys.argv[2])


def read_shard() -> None:
    ours, _theirs = socket.socketpair()
    ours.recv(1)


def train() -> None:
    model = parallel.DistributedDataParallel(torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    samples = data.TensorDataset(torch.ones(STEPS, 4), torch.ones(STEPS, 1))
    for epoch in range(2):
        for x, y in data.DataLoader(samples):
            optimizer.zero_grad()
            ((model(x) - y) ** 2).mean().backward()
            optimizer.step()
        if epoch and dist.get_rank() == STUCK:
            read_shard()
        dist.all_reduce(torch.ones(1))
    state = f"{sys.argv[3]}.{dist.get_rank()}"
    torch.save(model.state_dict(), state)
    torch.load(state)
    dist.barrier()


if __name__ == "__main__":
    dist.init_process_group("gloo")
    train()
    dist.destroy_process_group()
