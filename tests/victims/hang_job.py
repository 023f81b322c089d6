"""A job of several ranks, one of which does something else than the others.

``hang_job.py SIZE MEETING CAUSE ODD[,ODD]`` starts SIZE ranks that meet (``barrier``: one of
multiprocessing; ``exchange``: bytes through sockets with rank 0; ``flag``: asking a file again and
again), except that the ODD ranks first do what the CAUSE says. ``all`` means each rank does that.

Each rank writes one line of JSON before it begins, and the launcher one for each rank that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import multiprocessing
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

FORK = multiprocessing.get_context("fork")
PARENT_DEATH = 1
"""PR_SET_PDEATHSIG of prctl(2): nothing here outlives the launcher, nor that the test."""

shared: dict[str, Any] = {}
"""What the ranks inherit from the launcher."""


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGKILL)


def say(**fields: object) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")


# -- what the odd rank does ----------------------------------------------------------------------


def sleeping() -> None:
    time.sleep(1000)


def crossed_threads() -> None:
    first, second = threading.Lock(), threading.Lock()
    both = threading.Barrier(2)

    def other_side() -> None:
        with second:
            both.wait()
            with first:
                pass

    threading.Thread(target=other_side, daemon=True).start()
    with first:
        both.wait()
        with second:
            pass


def joining_crossed_threads() -> None:
    locks = threading.Lock(), threading.Lock()
    both = threading.Barrier(2)

    def take(mine: threading.Lock, theirs: threading.Lock) -> None:
        with mine:
            both.wait()
            with theirs:
                pass

    threads = [
        threading.Thread(target=take, args=pair, daemon=True) for pair in (locks, locks[::-1])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def crossed_ranks() -> None:
    first, second = shared["locks"]
    if shared["rank"] == shared["odd"][0]:
        first, second = second, first
    with first:
        shared["crossing"].wait()
        with second:
            pass


def locked_twice() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def holding_gil() -> None:
    ctypes.PyDLL(None).sleep(1000)


def counting() -> None:
    number = 0
    while True:
        number += 1


def matching() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")


def reading_socket() -> None:
    ours, shared["theirs"] = socket.socketpair()
    ours.recv(1)


def reading_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        shared["theirs"], _ = server.accept()
        ours.makefile("rb").readline()


def queue_without_producer() -> None:
    items: queue.Queue[int] = queue.Queue()

    def produce() -> None:
        items.put(1)

    producer = threading.Thread(target=produce)
    producer.start()
    producer.join()
    while True:
        items.get()


def queue_of_dead_process() -> None:
    items = FORK.Queue()
    producer = FORK.Process(target=os._exit, args=(1,))
    producer.start()
    producer.join()
    items.get()


def read_record(number: int) -> int:
    time.sleep(1000)
    return number


def load(jobs: Any, results: Any) -> None:
    die_with_parent()
    while True:
        number = jobs.get()
        results.put(read_record(number) if number == 0 else number)


def loader_stuck() -> None:
    results = FORK.Queue()
    queues = [FORK.Queue() for _ in range(3)]
    for jobs in queues:
        FORK.Process(target=load, args=(jobs, results), daemon=True).start()
    for number, jobs in enumerate(queues):
        jobs.put(number)
    for _ in queues:
        results.get()


def stopped() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def exiting() -> NoReturn:
    sys.exit(0)


def awaiting() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    asyncio.run(main())


def running_command() -> None:
    subprocess.run(["sleep", "1000"], check=True, preexec_fn=die_with_parent)


def running_captured_command() -> None:
    subprocess.run(["sleep", "1000"], check=True, capture_output=True, preexec_fn=die_with_parent)


def uninterruptible() -> None:
    # vfork(2): the parent stays in state D until its child, which shares its memory, is gone.
    libc = ctypes.PyDLL(None)
    if libc.vfork() == 0:
        libc.prctl(PARENT_DEATH, signal.SIGKILL)
        while True:
            libc.pause()


def slowly() -> None:
    while True:
        one_part()
        other_part()


def one_part() -> None:
    time.sleep(0.03)


def other_part() -> None:
    time.sleep(0.03)


def busily() -> None:
    while True:
        add_up()
        multiply()


def add_up() -> None:
    sum(range(300_000))


def multiply() -> None:
    for number in range(200_000):
        number * number


def napping() -> None:
    while True:
        time.sleep(0.02)


def reading_storage() -> None:
    with open(shared["fifo"], "rb", buffering=0) as file:
        file.read(1)


def doing_nothing() -> None:
    pass


# -- where the ranks meet ------------------------------------------------------------------------


def meet_barrier() -> None:
    shared["barrier"].wait()


def meet_exchange() -> None:
    rank, pairs = shared["rank"], shared["pairs"]
    if rank == 0:
        gather_and_answer([here for here, _ in pairs[1:]])
    else:
        _, mine = pairs[rank]
        mine.sendall(b"x")
        take_exactly(mine, 1)


def gather_and_answer(ends: list[socket.socket]) -> None:
    for end in ends:
        take_exactly(end, 1)
    for end in ends:
        end.sendall(b"x")


def take_exactly(end: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        got += end.recv(count - len(got))
    return got


def meet_all_reduce() -> None:
    meet_exchange()


def meet_flag() -> None:
    while not os.path.exists(shared["flag"]):
        time.sleep(0.01)


def run_rank(rank: int, meet: Callable[[], None], cause: Callable[[], None]) -> None:
    die_with_parent()
    shared["rank"] = rank
    say(rank=rank, pid=os.getpid(), thread=threading.get_native_id())
    if rank in shared["odd"]:
        cause()
    meet()


def main() -> None:
    die_with_parent()
    size, meeting, cause, odd = int(sys.argv[1]), *sys.argv[2:5]
    shared["odd"] = list(range(size)) if odd == "all" else [int(each) for each in odd.split(",")]
    shared["barrier"] = FORK.Barrier(size)
    shared["locks"] = FORK.Lock(), FORK.Lock()
    shared["crossing"] = FORK.Barrier(2)
    shared["pairs"] = [socket.socketpair() for _ in range(size)]
    shared["fifo"], shared["flag"] = sys.argv[5:7]
    arguments = (globals()[f"meet_{meeting}"], globals()[cause])
    ranks = [FORK.Process(target=run_rank, args=(rank, *arguments)) for rank in range(size)]
    for process in ranks:
        process.start()
    for rank, process in enumerate(ranks):
        if cause in ("killed", "exiting") and rank in shared["odd"]:
            process.join()
            say(rank=rank, ended=process.exitcode)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


if __name__ == "__main__":
    main()
