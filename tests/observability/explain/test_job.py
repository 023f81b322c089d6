"""Which processes of a tree are workers, told from their samples; no process is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hangs.simulated import OUTER, looking
from observability.explain.job import without_launchers
from observability.samples.types import WorkerView
from timers.events import WorkerInfo
from timers.stacks.take import Frame

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LIB = "/usr/lib/python3.12"
JOINING = (
    Frame("Popen.poll", f"{LIB}/multiprocessing/popen_fork.py", 27),
    Frame("BaseProcess.join", f"{LIB}/multiprocessing/process.py", 149),
    *OUTER,
)
ON_SENTINELS = (
    Frame("_PollLikeSelector.select", f"{LIB}/selectors.py", 415),
    Frame("wait", f"{LIB}/multiprocessing/connection.py", 930),
    *OUTER,
)
TRACKING = (
    Frame("main", f"{LIB}/multiprocessing/resource_tracker.py", 220),
    Frame("<module>", "<string>", 1),
)
FORKING = (
    Frame("EpollSelector.select", f"{LIB}/selectors.py", 468),
    Frame("main", f"{LIB}/multiprocessing/forkserver.py", 216),
    Frame("<module>", "<string>", 1),
)
FORKED = (
    Frame("read_shard", "/job/data.py", 8),
    Frame("BaseProcess.run", f"{LIB}/multiprocessing/process.py", 108),
    Frame("_serve_one", f"{LIB}/multiprocessing/forkserver.py", 304),
    Frame("main", f"{LIB}/multiprocessing/forkserver.py", 268),
)
READING = (Frame("read_shard", "/job/data.py", 8), *OUTER)


def views(stacks: Mapping[int, Sequence[Frame]]) -> list[WorkerView]:
    return [
        WorkerView(worker=WorkerInfo(pid=pid), samples=(looking(pid, frames),))
        for pid, frames in stacks.items()
    ]


def workers(stacks: Mapping[int, Sequence[Frame]], parents: dict[int, int]) -> dict[int, list[int]]:
    """Pid of each worker, and of what was made part of it."""
    found, _ = without_launchers(views(stacks), parents)
    return {int(view.worker.pid): [each.pid for each in view.descendants] for view in found}


def test_who_only_joins_its_children_is_no_worker() -> None:
    for launching in (JOINING, ON_SENTINELS):
        stacks = {1: launching, 2: READING, 3: READING}
        assert workers(stacks, {1: 0, 2: 1, 3: 1}) == {2: [], 3: []}


def test_who_waits_for_a_pool_is_a_worker_and_the_pool_part_of_it() -> None:
    in_map = (
        Frame("Event.wait", f"{LIB}/threading.py", 655),
        Frame("ApplyResult.get", f"{LIB}/multiprocessing/pool.py", 768),
        *OUTER,
    )
    assert workers({1: in_map, 2: READING, 3: READING}, {1: 0, 2: 1, 3: 1}) == {1: [2, 3]}


def test_who_joins_what_is_not_seen_stays() -> None:
    assert workers({1: JOINING}, {1: 0}) == {1: []}


def test_the_helpers_of_one_that_works_are_part_of_it() -> None:
    stacks = {1: READING, 2: READING, 3: READING}
    assert workers(stacks, {1: 0, 2: 1, 3: 2}) == {1: [2, 3]}


def test_a_shell_between_two_processes_does_not_part_them() -> None:
    assert workers({1: READING, 3: READING}, {1: 0, 2: 1, 3: 2}) == {1: [3]}
    assert workers({1: JOINING, 3: READING}, {1: 0, 2: 1, 3: 2}) == {3: []}


def test_launchers_of_launchers() -> None:
    stacks = {1: JOINING, 2: JOINING, 3: READING, 4: READING, 5: READING}
    assert workers(stacks, {1: 0, 2: 1, 3: 2, 4: 2, 5: 3}) == {3: [5], 4: []}


def test_the_machinery_of_multiprocessing_is_left_out_and_what_it_forked_is_not() -> None:
    stacks = {1: JOINING, 2: TRACKING, 3: FORKING, 4: FORKED, 5: FORKED}
    assert workers(stacks, {1: 0, 2: 1, 3: 1, 4: 3, 5: 3}) == {4: [], 5: []}
