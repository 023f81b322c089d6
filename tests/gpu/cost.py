"""What it costs that NCCL records when an operation starts (``timers run --nccl-timing``).

``python tests/gpu/cost.py``, from the top of the tree, some forty seconds: one rank on one GPU,
with and without ``TORCH_NCCL_ENABLE_TIMING`` in turns, medians of all runs.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

ROUNDS = 2
OPERATIONS = 1000
REPLAYS = 200
IN_A_GRAPH = 20
FIGURES = (
    "to enqueue one all_reduce, us of the CPU",
    "a product of two matrices and an all_reduce, us on the GPU",
    f"a CUDA graph of {IN_A_GRAPH} such pairs, us a pair",
)


def measure() -> dict[str, float]:
    """Return each of the figures."""
    torch: Any = importlib.import_module("torch")
    dist: Any = importlib.import_module("torch.distributed")
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", rank=0, world_size=1)
    data = torch.ones(1 << 20, device="cuda")
    left = torch.ones(1024, 1024, device="cuda")

    def pair() -> None:
        left.mm(left)
        dist.all_reduce(data)

    def seconds(what: Any, times: int) -> float:
        what()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(times):
            what()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / times

    def enqueued() -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(OPERATIONS):
            dist.all_reduce(data)
        took = time.perf_counter() - began
        torch.cuda.synchronize()
        return took / OPERATIONS

    enqueued()
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        pair()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for _ in range(IN_A_GRAPH):
            pair()
    found = (enqueued(), seconds(pair, OPERATIONS), seconds(graph.replay, REPLAYS) / IN_A_GRAPH)
    return {what: 1e6 * value for what, value in zip(FIGURES, found, strict=True)}


def measured(timing: str) -> dict[str, float]:
    """Measure in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ran = subprocess.run(
        [sys.executable, __file__, "one"],
        env={**os.environ, **address, "TORCH_NCCL_ENABLE_TIMING": timing},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the figures without and with it, and their ratio."""
    runs: dict[str, list[dict[str, float]]] = {"0": [], "1": []}
    for _ in range(ROUNDS):
        for timing, found in runs.items():
            found.append(measured(timing))
    for what in FIGURES:
        without, with_it = (
            statistics.median(each[what] for each in runs[timing]) for timing in ("0", "1")
        )
        print(f"{what}: {without:.2f} without, {with_it:.2f} with it, {with_it / without:.2f}x")


if __name__ == "__main__":
    if sys.argv[1:] == ["one"]:
        print(json.dumps(measure()))
    else:
        main()
