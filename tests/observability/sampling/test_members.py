"""Which processes are ranks of a job: real trees of processes, as launchers make them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from observability.sampling.members import unregistered, world_size
from timers.events import WorkerInfo
from timers.linux.ranks import ranks_of

if TYPE_CHECKING:
    from collections.abc import Iterator

NODE = """
import json, os, subprocess, sys
tree = json.loads(sys.argv[1])
children = [
    subprocess.Popen(
        [sys.executable, "-c", sys.argv[2], json.dumps(each), sys.argv[2]],
        env={**os.environ, **each.get("env", {})}, stdout=subprocess.PIPE, stdin=subprocess.PIPE,
    )
    for each in tree.get("children", [])
]
below = [json.loads(child.stdout.readline()) for child in children]
print(json.dumps({"pid": os.getpid(), "name": tree.get("name"), "children": below}), flush=True)
sys.stdin.read()
"""
JOB = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@contextlib.contextmanager
def tree(node: dict[str, object]) -> Iterator[dict[str, int]]:
    """Processes that stay, by name."""
    environment = {k: v for k, v in os.environ.items() if "RANK" not in k and k not in JOB}
    process = subprocess.Popen(
        [sys.executable, "-c", NODE, json.dumps(node), NODE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield dict(_named(json.loads(process.stdout.readline())))
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def _named(node: dict[str, object]) -> Iterator[tuple[str, int]]:
    yield str(node["name"]), int(str(node["pid"]))
    children = node["children"]
    assert isinstance(children, list)
    for child in children:
        yield from _named(child)


def rank(number: int, *children: dict[str, object], **more: str) -> dict[str, object]:
    variables = {"RANK": str(number), "WORLD_SIZE": "3", **JOB, **more}
    return {"name": f"rank {number}", "env": variables, "children": list(children)}


def helper(name: str) -> dict[str, object]:
    return {"name": name}


def found(known: list[int], **options: object) -> dict[int | None, int]:
    workers = [WorkerInfo(pid=pid, rank=ranks_of(pid).rank) for pid in known]
    others = unregistered(workers, timeout=20, **options)  # type: ignore[arg-type]  # roots alone
    return {worker.rank: int(worker.pid) for worker in others}


def test_a_rank_that_never_registered_is_found_and_its_helpers_are_not_ranks() -> None:
    launcher: dict[str, object] = {"name": "launcher", "children": [
        rank(0), rank(1, helper("loader of 1")), rank(2, helper("loader of 2"))]}  # fmt: skip
    with tree(launcher) as pids:
        assert found([pids["rank 0"], pids["rank 1"]]) == {2: pids["rank 2"]}
        assert found([pids["rank 2"]]) == {0: pids["rank 0"], 1: pids["rank 1"]}
        assert found([], roots=[pids["launcher"]]) == {n: pids[f"rank {n}"] for n in range(3)}
        workers = [WorkerInfo(pid=pids[f"rank {n}"], rank=n) for n in range(3)]
        assert world_size(workers) == 3
        assert world_size([*workers, WorkerInfo(pid=1, rank=7)]) is None


def test_ranks_that_rank_0_started_are_ranks() -> None:
    # As Lightning's own launcher does.
    variables = {"NODE_RANK": "0", "WORLD_SIZE": "2", **JOB}
    second = {"name": "second", "env": {"LOCAL_RANK": "1", **variables}}
    # What it starts later has the variables that it has set for itself by then.
    loader = {"name": "loader", "env": {"LOCAL_RANK": "0", **variables}}
    with tree({"name": "first", "children": [second, loader]}) as pids:
        assert found([pids["first"]], roots=[pids["first"]]) == {1: pids["second"]}
        assert found([pids["second"]]) == {0: pids["first"]}
        assert found([pids["second"]], roots=[pids["first"]]) == {0: pids["first"]}
        workers = [WorkerInfo(pid=pids["first"], rank=0), WorkerInfo(pid=pids["second"], rank=1)]
        assert world_size(workers) == 2


def test_of_two_such_jobs_of_one_shell_each_is_apart() -> None:
    def job(name: str, port: str) -> dict[str, object]:
        variables = {"NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": port}
        second = {"name": f"{name}, rank 1", "env": {"LOCAL_RANK": "1", **variables}}
        return {"name": f"{name}, rank 0", "children": [second]}

    with tree({"name": "shell", "children": [job("one", "1"), job("other", "2")]}) as pids:
        for name in ("one", "other"):
            first, second = pids[f"{name}, rank 0"], pids[f"{name}, rank 1"]
            assert found([first]) == {1: second}
            assert found([second]) == {0: first}


def test_an_agent_with_the_variables_of_a_pod_is_no_rank() -> None:
    ranks = [rank(n, TORCHELASTIC_RUN_ID="j") for n in range(3)]
    pod = {"name": "pod", "env": {"RANK": "0", "WORLD_SIZE": "1"}, "children": ranks}
    with tree({"name": "root", "children": [pod]}) as pids:
        assert found([pids["rank 1"]], roots=[pids["root"]]) == {
            0: pids["rank 0"],
            2: pids["rank 2"],
        }


def test_another_job_of_the_same_user_is_left_alone() -> None:
    other = {**rank(2), "env": {"RANK": "2", "MASTER_PORT": "29999"}, "name": "other"}
    with tree({"name": "root", "children": [rank(0), rank(1), other]}) as pids:
        assert found([pids["rank 0"]]) == {1: pids["rank 1"]}
