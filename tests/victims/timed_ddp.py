"""Data-parallel training over gloo in steps of five milliseconds; rank 0 says how long each took.

``timed_ddp.py STEPS``: prints one JSON list, in seconds, without the first steps.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

# By name, so that a type checker needs neither PyTorch nor the minutes it takes to read it.
torch: Any = importlib.import_module("torch")
dist: Any = importlib.import_module("torch.distributed")
data: Any = importlib.import_module("torch.utils.data")
parallel: Any = importlib.import_module("torch.nn.parallel")

GPU_SECONDS = 0.004
"""What one would be waited for; the rest of the five is this machine's."""
WARM_UP = 20


def main() -> None:
    steps = int(sys.argv[1])
    dist.init_process_group("gloo")
    model = parallel.DistributedDataParallel(torch.nn.Linear(64, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    took = []
    last = time.perf_counter()
    for (x,) in data.DataLoader(data.TensorDataset(torch.ones(WARM_UP + steps, 64))):
        optimizer.zero_grad()
        model(x).sum().backward()
        time.sleep(GPU_SECONDS)
        optimizer.step()
        now = time.perf_counter()
        took.append(now - last)
        last = now
    if dist.get_rank() == 0:
        print(json.dumps(took[WARM_UP:]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
