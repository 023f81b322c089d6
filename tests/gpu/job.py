"""A data-parallel job over NCCL on one card, four ranks, which hangs in the way its argument says.

``job.py CASE`` starts the ranks, which are made to believe that each is on a host of its own: NCCL
refuses two ranks on one card otherwise. A few good steps, then the hang, inside a timer.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import socket
import subprocess
import sys
import time
from typing import Any

import timers

RANKS = 4
GOOD_STEPS = 20
AFTER_SECONDS = 6.0
ENDLESS = 10**12
CASES = (
    "before_step", "mismatch", "endless_kernel", "gil", "slow", "uneven_data", "two_groups",
)  # fmt: skip


def fetch_shard() -> None:
    ours, _theirs = socket.socketpair()
    ours.recv(1)


def hold_the_gil() -> None:
    ctypes.PyDLL(None).sleep(1000)


def preprocess(torch: Any) -> None:
    matrix = torch.ones(400, 400)
    for _ in range(ENDLESS):
        matrix = (matrix @ matrix).clamp_(0, 1)


def finish(dist: Any) -> None:
    dist.barrier()


def run_rank(rank: int, case: str) -> None:
    # By name, so that a type checker needs neither PyTorch nor the minutes it takes to read it.
    torch: Any = importlib.import_module("torch")
    dist: Any = importlib.import_module("torch.distributed")
    timers.configure_from_env()
    torch.cuda.set_device(0)
    torch.set_num_threads(1)
    dist.init_process_group("nccl")
    pairs = [dist.new_group(pair) for pair in ([0, 1], [2, 3])] if case == "two_groups" else []
    model = torch.nn.Sequential(torch.nn.Linear(256, 128), torch.nn.Linear(128, 10)).cuda()
    parallel = torch.nn.parallel.DistributedDataParallel(model, device_ids=[0])
    print(f"rank {rank} is ready", flush=True)
    for step in range(ENDLESS):
        with timers.expires(after=60.0 if step < GOOD_STEPS else AFTER_SECONDS, scope="train_step"):
            if step == GOOD_STEPS:
                if (case, rank) in (("before_step", 2), ("two_groups", 3)):
                    fetch_shard()
                elif (case, rank) == ("gil", 1):
                    hold_the_gil()
                elif (case, rank) == ("slow", 2):
                    preprocess(torch)
                elif (case, rank) == ("uneven_data", 3):
                    finish(dist)
                elif case == "mismatch" and rank != 1:
                    dist.all_reduce(torch.ones(1, device="cuda"))
                elif (case, rank) == ("endless_kernel", 3):
                    torch.cuda._sleep(ENDLESS)
            if pairs:
                dist.all_reduce(torch.ones(8, device="cuda"), group=pairs[rank // 2])
            loss = parallel(torch.ones(32, 256, device="cuda")).sum()
            loss.backward()
            loss.item()


def start_ranks(case: str) -> int:
    """Start the ranks and stay with them until one of them has ended."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    common = {
        **os.environ,
        "WORLD_SIZE": str(RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NCCL_SOCKET_IFNAME": "lo",
        "NCCL_P2P_DISABLE": "1",
        "NCCL_SHM_DISABLE": "1",
        "NCCL_IB_DISABLE": "1",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, case],
            env={**common, "RANK": str(n), "LOCAL_RANK": str(n), "NCCL_HOSTID": f"host{n}"},
        )
        for n in range(RANKS)
    ]
    try:
        while all(process.poll() is None for process in ranks):
            time.sleep(0.1)
    finally:
        for process in ranks:
            process.kill()
        for process in ranks:
            process.wait()
    return 0


if __name__ == "__main__":
    if "RANK" in os.environ:
        run_rank(int(os.environ["RANK"]), sys.argv[1])
    else:
        sys.exit(start_ranks(sys.argv[1]))
