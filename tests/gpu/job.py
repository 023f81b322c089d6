"""A data-parallel job over NCCL on one card, four ranks, which hangs in the way its argument says.

``job.py CASE`` starts the ranks, which are made to believe that each is on a host of its own: NCCL
refuses two ranks on one card otherwise. A few good steps, then the hang, inside a timer;
``job.py CASE plain`` is a script that has never heard of timers.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

RANKS = 4
GOOD_STEPS = 20
AFTER_SECONDS = 6.0
ENDLESS = 10**12
LONG_STEPS = 12
LONG_CYCLES = 6 * 10**9
"""Some three seconds."""


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
    while True:  # NCCL may take what the others call for the first barrier
        dist.barrier()


class Shard:
    """A data set of which the first item never comes."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _index: int) -> None:
        fetch_shard()


def next_batch(torch: Any) -> None:
    for _ in torch.utils.data.DataLoader(Shard(), num_workers=1, multiprocessing_context="fork"):
        pass


def hang(rank: int, case: str, torch: Any) -> None:
    if (case, rank) in (("before_step", 2), ("two_groups", 3), ("pipeline", 1)):
        fetch_shard()
    elif (case, rank) == ("stopped", 2):
        os.kill(os.getpid(), signal.SIGSTOP)
    elif (case, rank) == ("loader", 2):
        next_batch(torch)
    elif (case, rank) == ("synchronize", 3):
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(ENDLESS)
        torch.cuda.synchronize()
    elif (case, rank) == ("gil", 1):
        hold_the_gil()
    elif (case, rank) == ("slow", 2):
        preprocess(torch)
    elif (case, rank) == ("uneven_data", 3):
        finish(torch.distributed)
    elif case == "mismatch" and rank != 1:
        torch.distributed.all_reduce(torch.ones(1, device="cuda"))
    elif (case, rank) == ("endless_kernel", 3):
        torch.cuda._sleep(ENDLESS)


def hand_on(rank: int, torch: Any) -> None:
    """Do what the stages of a pipeline do: take from the one before, give to the next."""
    data = torch.ones(64, device="cuda")
    if rank > 0:
        torch.distributed.recv(data, rank - 1)
    if rank < RANKS - 1:
        torch.distributed.send(data, rank + 1)


def guard(plain: bool) -> Any:
    """Return what a step is guarded by, for so many seconds."""
    if plain:
        return contextlib.nullcontext
    timers: Any = importlib.import_module("timers")
    timers.configure_from_env()
    return lambda after: timers.expires(after=after, scope="train_step")


def run_rank(rank: int, case: str, *, plain: bool) -> None:
    # By name, so that a type checker needs neither PyTorch nor the minutes it takes to read it.
    torch: Any = importlib.import_module("torch")
    dist: Any = importlib.import_module("torch.distributed")
    guarded = guard(plain)
    torch.cuda.set_device(0)
    torch.set_num_threads(1)
    dist.init_process_group("nccl")
    pairs = [dist.new_group(pair) for pair in ([0, 1], [2, 3])] if case == "two_groups" else []
    model = torch.nn.Sequential(torch.nn.Linear(256, 128), torch.nn.Linear(128, 10)).cuda()
    parallel = torch.nn.parallel.DistributedDataParallel(model, device_ids=[0])
    optimizer = torch.optim.SGD(parallel.parameters(), lr=1e-3)
    print(f"rank {rank} is ready", flush=True)
    for step in range(ENDLESS):
        with guarded(60.0 if step < GOOD_STEPS else AFTER_SECONDS):
            if case == "long_steps":
                if step == LONG_STEPS:
                    dist.destroy_process_group()
                    return
                torch.cuda._sleep(LONG_CYCLES)
            elif step == GOOD_STEPS:
                print(f"rank {rank} has done its good steps", flush=True)
                hang(rank, case, torch)
            if case == "pipeline":
                hand_on(rank, torch)
            if pairs:
                dist.all_reduce(torch.ones(8, device="cuda"), group=pairs[rank // 2])
            loss = parallel(torch.ones(32, 256, device="cuda")).sum()
            loss.backward()
            loss.item()
            optimizer.step()


def start_ranks(arguments: list[str]) -> int:
    """Start the ranks and stay with them until one has ended; return its exit status."""
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the ranks end with it
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, *arguments],
            env={**common, "RANK": str(n), "LOCAL_RANK": str(n), "NCCL_HOSTID": f"host{n}"},
        )
        for n in range(RANKS)
    ]
    try:
        while True:
            time.sleep(0.1)
            for process in ranks:
                if process.poll() is not None:
                    return process.returncode
    finally:
        for process in ranks:
            process.kill()
        for process in ranks:
            process.wait()


if __name__ == "__main__":
    if "RANK" in os.environ:
        run_rank(int(os.environ["RANK"]), sys.argv[1], plain="plain" in sys.argv[2:])
    else:
        sys.exit(start_ranks(sys.argv[1:]))
