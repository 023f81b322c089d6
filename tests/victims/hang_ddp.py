"""Jobs of torch ranks over gloo, data-parallel, that hang after two good steps.

Imports torch once. Then, for each line of JSON on its standard input with ``case``, ``size``,
``recorder`` and ``directory``, forks the ranks of one job and says their pids; the line ``end``
kills them. Where which rank gets stuck is in :data:`CASES`: the functions below are what the test
finds in the stacks.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import itertools
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import timers
from victims.hang_job import die_with_parent, say

if TYPE_CHECKING:
    from collections.abc import Callable

# By name, so that a type checker needs neither PyTorch nor the minutes it takes to read it.
torch: Any = importlib.import_module("torch")
dist: Any = importlib.import_module("torch.distributed")
data: Any = importlib.import_module("torch.utils.data")
parallel: Any = importlib.import_module("torch.nn.parallel")
importlib.import_module("torch._dynamo")  # once, in place of once in each rank (DDP wants it)

FORK = multiprocessing.get_context("fork")
ENDLESS = 10**12
directory = ""
groups: list[Any] = []


# -- what the odd ranks do -----------------------------------------------------------------------


def read_shard() -> None:
    ours, _theirs = socket.socketpair()
    ours.recv(1)


def train_allreduce() -> None:
    ours, _theirs = socket.socketpair()
    ours.recv(1)


def save() -> None:
    dist.barrier()


class Huge:
    """Pickled in C, for a long time."""

    def __reduce__(self) -> Any:
        return (list, (), None, itertools.repeat("x", ENDLESS))


def gather_results(rank: int) -> None:
    dist.all_gather_object([None] * dist.get_world_size(), Huge() if rank == 2 else rank)


def multiply() -> None:
    matrix = torch.ones(300, 300)
    for _ in range(ENDLESS):
        matrix = (matrix @ matrix).clamp_(0, 1)


def evaluate() -> None:
    total = 0
    for number in range(ENDLESS):
        total += number * number


def wait_while_there() -> None:
    while os.path.exists(directory):
        pass


def wait_for_checkpoint() -> None:
    while not os.path.exists(os.path.join(directory, "best.pt")):
        time.sleep(0.01)


def hold_the_lock() -> None:
    with open(os.path.join(directory, "lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with open(os.path.join(directory, "locked"), "w"):
            wait_for_checkpoint()


def take_the_lock() -> None:
    while not os.path.exists(os.path.join(directory, "locked")):
        time.sleep(0.001)
    with open(os.path.join(directory, "lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


class Records:
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> object:
        if index == 9:
            read_record()
        return torch.zeros(1)


def read_record() -> None:
    time.sleep(1000)


def load_batches() -> None:
    watched = {"worker_init_fn": lambda _: die_with_parent()}
    for _ in data.DataLoader(Records(), batch_size=4, num_workers=2, **watched):
        pass


def decode(_number: int) -> None:
    read_record()


def decode_in_a_pool() -> None:
    with FORK.Pool(2, initializer=die_with_parent) as pool:
        pool.map(decode, [1])


def hold_the_gil() -> None:
    importlib.import_module("ctypes").PyDLL(None).sleep(1000)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def clean_up() -> None:
    dist.barrier()


def fail_and_clean_up() -> None:
    try:
        raise ValueError("one rank's own")
    finally:
        clean_up()


def wait_for_key() -> None:
    dist.distributed_c10d._get_default_store().get("that nobody sets")


def lock_twice() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def upload() -> None:
    read_shard()


def join_uploader() -> None:
    uploader = threading.Thread(target=upload, daemon=True)
    uploader.start()
    uploader.join()


def send_to_the_other(rank: int) -> None:
    dist.send(torch.zeros(1 << 24), 1 - rank)


def receive_activations(rank: int) -> None:
    dist.recv(torch.zeros(8), rank - 1)


def reduce_in_its_group(rank: int) -> None:
    dist.all_reduce(torch.zeros(8), group=groups[rank // 2])


def leave_out() -> None:
    time.sleep(1000)


def nothing() -> None:
    pass


CASES: dict[str, Callable[[int], Callable[[], None]]] = {
    "barrier_while_saving": lambda rank: save if rank == 1 else nothing,
    "data_ends_early": lambda rank: save if rank == 3 else nothing,
    "two_reading": lambda rank: read_shard if rank in (1, 2) else nothing,
    "first_reading": lambda rank: read_shard if rank == 0 else nothing,
    "left_out": lambda rank: leave_out if rank == 2 else nothing,
    "asleep": lambda rank: leave_out if rank == 1 else nothing,
    "pickling": lambda rank: lambda: gather_results(rank),
    "multiplying": lambda rank: multiply if rank == 2 else nothing,
    "evaluating": lambda rank: evaluate if rank == 2 else nothing,
    "all_multiplying": lambda _: multiply,
    "polling": lambda rank: wait_while_there if rank == 2 else nothing,
    "polling_asleep": lambda rank: wait_for_checkpoint if rank == 1 else nothing,
    "lock_and_poll": lambda rank: {0: take_the_lock, 1: hold_the_lock}.get(rank, nothing),
    "named_like_a_collective": lambda rank: train_allreduce if rank == 2 else nothing,
    "loader": lambda rank: load_batches if rank == 0 else nothing,
    "pool": lambda rank: decode_in_a_pool if rank == 1 else nothing,
    "gil": lambda rank: hold_the_gil if rank == 1 else nothing,
    "stopped": lambda rank: stop if rank == 3 else nothing,
    "barrier_in_finally": lambda rank: fail_and_clean_up if rank == 2 else nothing,
    "store_key": lambda rank: wait_for_key if rank == 2 else nothing,
    "thread_lock": lambda rank: lock_twice if rank == 2 else nothing,
    "uploader": lambda rank: join_uploader if rank == 1 else nothing,
    "send_circle": lambda rank: lambda: send_to_the_other(rank),
    "pipeline": lambda rank: read_shard if rank == 0 else lambda: receive_activations(rank),
    "two_groups": lambda rank: read_shard if rank == 3 else lambda: reduce_in_its_group(rank),
}


def train_step(model: Any) -> None:
    model(torch.ones(4, 40)).sum().backward()


def run_rank(rank: int, asked: dict[str, Any]) -> None:
    global directory  # noqa: PLW0603  # one job for each forked process
    die_with_parent()
    directory = asked["directory"]
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(asked["size"]),
        "TORCH_FR_BUFFER_SIZE": "2000" if asked["recorder"] else "0",
    }
    timers.configure_from_env()
    torch.set_num_threads(1)
    store = f"file://{directory}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=asked["size"])
    if asked["case"] == "two_groups":
        groups.extend(dist.new_group(members) for members in ([0, 1], [2, 3]))
    model = parallel.DistributedDataParallel(torch.nn.Linear(40, 20))
    cause = CASES[asked["case"]](rank)
    for step in itertools.count():
        if step == 2:
            say(rank=rank, pid=os.getpid())
            cause()
        train_step(model)


def main() -> None:
    die_with_parent()
    print("ready", flush=True)
    ranks: list[int] = []
    for line in sys.stdin:
        for pid in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        ranks = []
        if line.strip() == "end":
            print("ended", flush=True)
            continue
        asked = json.loads(line)
        for rank in range(asked["size"]):
            pid = os.fork()
            if pid == 0:
                sys.stdin.close()
                run_rank(rank, asked)
            ranks.append(pid)


if __name__ == "__main__":
    main()
