"""A Ray cluster of two nodes on this machine, with a watchdog on each, and work that gets stuck.

``ray_cluster.py EVENTS MARKS WHAT``: events of the nodes go to EVENTS, which has ``{node}`` in it.
With ``stuck`` an actor on one node and a task on the other block for ever, each at its first
attempt, as files in MARKS say; with ``doomed`` they do so at each attempt; with ``works`` nobody.
Prints what came of it as JSON lines.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
import traceback
from typing import Any

import observability.ray

ray: Any = importlib.import_module("ray")
cluster_utils: Any = importlib.import_module("ray.cluster_utils")
SMALL = {"object_store_memory": 80 << 20, "include_dashboard": False}
SECONDS = 2.0


def block(name: str, marks: str, what: str) -> str:
    mark = os.path.join(marks, name)
    if what == "works" or (what == "stuck" and os.path.exists(mark)):
        return f"{name} is done"
    with open(mark, "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    receive, _send = os.pipe()
    os.read(receive, 1)  # for ever
    return "never"


class Loader:
    def fetch(self, *arguments: str) -> str:
        return block("actor", *arguments)


class Idle:
    def nothing(self) -> None:
        """Be there."""


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


def main(events: str, marks: str, what: str) -> None:
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"one": 9}, **SMALL}
    )
    cluster.add_node(num_cpus=1, resources={"two": 9}, **SMALL)
    watch = observability.ray.start(
        after={"Loader.fetch": SECONDS, "shard": SECONDS},
        events=events,
        level="info",
        address=cluster.address,
        log_to_driver=True,
        directory=os.path.join(os.environ["RAY_TMPDIR"], "t"),
    )
    retries = 1 if what == "stuck" else 0
    idle = ray.remote(Idle).options(resources={"two": 1}, num_cpus=0).remote()
    ray.get(idle.nothing.remote())
    loader = ray.remote(Loader).options(
        name="first", resources={"one": 1}, max_restarts=retries, max_task_retries=retries
    )
    task = ray.remote(shard).options(resources={"two": 1}, max_retries=retries)
    actor = loader.remote()
    ran = [actor.fetch.remote(marks, what), task.remote(marks, what)]
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
