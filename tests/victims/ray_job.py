"""A job of Ray without a word of us: actors of each kind and tasks, of which one may get stuck.

``ray_job.py works`` ends well. ``ray_job.py stuck MARK`` calls an actor whose method blocks for
ever, unless there is a file MARK, which it makes; then says what the method returned.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import sys
from typing import Any

ray: Any = importlib.import_module("ray")


class Loader:
    def fetch(self, mark: str) -> str:
        if os.path.exists(mark):
            return "fetched again"
        with open(mark, "w", encoding="utf-8"):
            pass
        receive, _send = os.pipe()
        os.read(receive, 1)  # for ever
        return "never"


class Counter:
    def __init__(self, start: int) -> None:
        self.value = start

    def add(self, number: int) -> int:
        self.value += number
        return self.value


class Waiting:
    async def wait(self, seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds


def double(number: int) -> int:
    return 2 * number


def stack() -> list[str]:
    return [frame.filename for frame in inspect.stack()]


def fail() -> None:
    raise ValueError("as it should")


def work() -> None:
    counter = ray.remote(Counter).options(name="counting", max_concurrency=2).remote(1)
    waiting = ray.remote(Waiting).remote()
    assert len(ray.get([counter.add.remote(1) for _ in range(10)])) == 10
    assert ray.get([waiting.wait.remote(0.01 * number) for number in range(5)])[-1] == 0.04
    task = ray.remote(double)
    assert ray.get([task.options(name=f"double-{i}").remote(i) for i in range(10)])[-1] == 18
    print([name for name in ray.get(ray.remote(stack).remote()) if "timers/auto" in name])
    try:
        ray.get(ray.remote(fail).remote())
    except ValueError as error:
        print(str(error))


if __name__ == "__main__":
    ray.init(num_cpus=4, object_store_memory=80 << 20, include_dashboard=False)
    if sys.argv[1] == "works":
        work()
    else:
        loader = ray.remote(Loader).options(name="first", max_restarts=1, max_task_retries=1)
        print(ray.get(loader.remote().fetch.remote(sys.argv[2])), flush=True)
    ray.shutdown()
