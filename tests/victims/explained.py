"""A job without a timer in it, to be explained; the first argument says what it does.

Says "ready" once every process of it is where it stays.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import sys
import time
import urllib.request
from typing import Any


def ready() -> None:
    print("ready", flush=True)


def get_page(address: tuple[str, int]) -> None:
    urllib.request.urlopen(f"http://{address[0]}:{address[1]}/").read()


def request() -> None:
    """Ask a server that takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ready()
        get_page(server.getsockname())


def read_shard(waiting: Any) -> None:
    waiting.release()
    time.sleep(1000)


def wait_for_work(waiting: Any, queue: Any) -> None:
    waiting.release()
    queue.get()


def _start(size: int, odd: int) -> list[Any]:
    context = multiprocessing.get_context("fork")
    waiting, queue = context.Semaphore(0), context.Queue()
    processes = [
        context.Process(target=read_shard, args=(waiting,))
        if number == odd
        else context.Process(target=wait_for_work, args=(waiting, queue))
        for number in range(size)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        waiting.acquire()
    print(*(process.pid for process in processes), flush=True)
    return processes


def processes(size: str = "4", odd: str = "2") -> None:
    """Start processes of which one is stuck while the others wait for an item of a queue."""
    ready()
    for process in _start(int(size), int(odd)):
        process.join()


def count_up() -> None:
    number = 0
    while True:
        number += sum(range(200))
        number -= len(str(number))


def get_stuck_once(number: int) -> int:
    if number == 1:
        time.sleep(900)
    return number


def pool(what: str) -> None:
    """Have a pool that is idle, or in which one task never ends."""
    with multiprocessing.get_context("fork").Pool(2) as workers:
        workers.map(abs, range(100))
        ready()
        if what == "stuck":
            workers.map(get_stuck_once, range(2), chunksize=1)
        sys.stdin.readline()


def notebook() -> None:
    """Wait for what somebody types, as a kernel does between two cells."""

    async def serve() -> None:
        ready()
        await asyncio.Event().wait()

    asyncio.run(serve())


def told() -> None:
    """Answer each byte that comes from a socket, after some work."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ["EXPLAINED_SOCKET"])
        while connection.recv(1):
            sum(len(str(number)) for number in range(400_000))
            connection.send(b"x")


def checkpoint() -> None:
    """Write a lot at once to a named pipe, and end when all of it was taken."""
    with open(os.environ["EXPLAINED_PIPE"], "wb", buffering=0) as file:
        left = memoryview(bytes(8 << 20))
        while left:  # once, but for a signal
            left = left[file.write(left) :]


def finishing() -> None:
    """Compute for two seconds of CPU time, and end."""
    number = 0
    while time.process_time() < 2:
        number += sum(range(200))
        number -= len(str(number))


def working() -> None:
    """Compute, in more functions than one."""
    ready()
    count_up()


def rank() -> None:
    """Wait, as a rank of the job that the environment names."""
    here, _there = socket.socketpair()
    ready()
    here.recv(1)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
