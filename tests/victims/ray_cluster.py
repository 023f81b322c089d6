"""A Ray cluster of two nodes on this machine, with a watchdog on each, and work that gets stuck.

``ray_cluster.py EVENTS MARKS WHAT``: EVENTS has ``{node}`` in it. ``stuck``: an actor on one node
and a task on the other block at their first attempt, ``doomed``: at each, ``works``: never,
``alone``: where the nodes cannot meet, ``orphaned``: and the watchdogs are killed. Prints JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any

import observability.ray

ray: Any = importlib.import_module("ray")
cluster_utils: Any = importlib.import_module("ray.cluster_utils")
SMALL = {"object_store_memory": 80 << 20, "include_dashboard": False}
SECONDS = 4.0


def block(name: str, marks: str, what: str) -> str:
    mark = os.path.join(marks, name)
    if what == "works" or (what != "doomed" and os.path.exists(mark)):
        return f"{name} is done"
    with open(mark, "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    receive, _send = os.pipe()
    os.read(receive, 1)  # for ever
    return "never"


class Loader:
    def nothing(self) -> None:
        """Be there."""

    def fetch(self, *arguments: str) -> str:
        return block("actor", *arguments)


def nothing() -> None:
    """Have a worker be there."""


def shard(*arguments: str) -> str:
    return block("task", *arguments)


def outcome(reference: Any) -> dict[str, Any]:
    try:
        return {"value": ray.get(reference, timeout=120)}
    except ray.exceptions.RayError as error:
        return {"error": type(error).__name__, "text": traceback.format_exc()}


def awaited(reference: Any) -> str:
    try:
        return str(reference.future().result(60))
    except ray.exceptions.RayError as error:
        return type(error).__name__


def kill_watchdogs(marks: str) -> None:
    deadline = time.monotonic() + 60
    while len(os.listdir(marks)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    directory = os.path.join(os.environ["RAY_TMPDIR"], "t")
    for name in os.listdir(directory):
        if name.endswith(".pid"):
            with open(os.path.join(directory, name), encoding="ascii") as file:
                os.kill(int(file.read()), signal.SIGKILL)


def main(events: str, marks: str, what: str) -> None:
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"one": 9}, **SMALL}
    )
    cluster.add_node(num_cpus=1, resources={"two": 9}, **SMALL)
    watch = observability.ray.start(
        after={"Loader.fetch": SECONDS, "shard": SECONDS},
        events=events,
        level="info",
        dump_timeout=20,  # on a machine that does much else
        address=cluster.address,
        log_to_driver=True,
        directory=os.path.join(os.environ["RAY_TMPDIR"], "t"),
    )
    # On a slow machine an attempt may overrun before it is where it is to be stuck.
    retries = 0 if what == "doomed" else 5
    idle = ray.remote(Loader).options(resources={"two": 1}, num_cpus=0).remote()
    loader = ray.remote(Loader).options(
        name="first", resources={"one": 1}, max_restarts=retries, max_task_retries=retries
    )
    task = ray.remote(shard).options(resources={"two": 1}, max_retries=retries)
    actor = loader.remote()
    warm = ray.remote(nothing).options(resources={"two": 1}).remote()
    ray.get([idle.nothing.remote(), actor.nothing.remote(), warm])
    if what == "alone":
        ray.kill(ray.get_actor(os.environ["TIMERS_RAY_MEETING"], namespace="timers"))
    ran = [actor.fetch.remote(marks, what), task.remote(marks, what)]
    if what == "orphaned":
        kill_watchdogs(marks)
    print(json.dumps({"nodes": sorted(watch.nodes)}), flush=True)
    for reference in ran:
        print(json.dumps(outcome(reference)), flush=True)
    print(json.dumps({"awaited": awaited(ran[1])}), flush=True)
    watch.stop()
    ray.shutdown()
    cluster.shutdown()
    deadline = time.monotonic() + 10
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
