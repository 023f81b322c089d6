"""Which processes of this host are ranks of a job, whether they have registered or not.

A rank that is stuck before its first timer is unknown to the server, and yet the one that all
others wait for. A process is taken for a rank when its launcher, or it itself, says so, and when
it does not merely have the variables from a parent that is that rank already.
"""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING

from timers.events import WorkerInfo
from timers.linux import procfs
from timers.linux.ranks import Ranks, job_environment, ranks_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

__all__ = ["add_descendants", "job_of", "unregistered", "worker_of", "world_size"]

_MOST_PROCESSES = 8192
_INIT = 1
_JOB_VARIABLES = (
    "TORCHELASTIC_RUN_ID",
    "MASTER_ADDR",
    "MASTER_PORT",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "OMPI_MCA_ess_base_jobid",
    "PMIX_NAMESPACE",
)


def job_of(pid: int) -> tuple[str | None, ...]:
    """Return what tells the job of ``pid`` from others on this host."""
    environment = job_environment(pid)
    return tuple(environment.get(name) for name in _JOB_VARIABLES)


def unregistered(
    known: Sequence[WorkerInfo], *, timeout: float, roots: Iterable[int] = ()
) -> list[WorkerInfo]:
    """Find the ranks of a job among the relatives of those that are known.

    :param known: the registered workers of the job.
    :param timeout: seconds, after which what was found by then is returned.
    :param roots: processes of which all descendants are searched, besides the siblings of the
        known ones, and their parents: one of these may have started its siblings.
    """
    until = time.monotonic() + timeout
    pids = {int(worker.pid) for worker in known}
    found_stats = (procfs.stat(pid) for pid in pids)
    parents = {stat.parent for stat in found_stats if stat is not None and stat.parent > _INIT}
    # Parents before their children, and this process none of them.
    stats = {pid: procfs.stat(pid) for pid in sorted(parents) if pid != os.getpid()}
    tree = {pid: stat.parent for pid, stat in stats.items() if stat is not None}
    add_descendants(tree, sorted(parents.union(roots)), most=_MOST_PROCESSES, until=until)
    ranks = {pid: ranks_of(pid) for pid in tree if time.monotonic() < until}
    taken = {worker.rank for worker in known} | {None}
    jobs = {job_of(pid) for pid in pids}
    found: dict[int, WorkerInfo] = {}
    for pid, mine in ranks.items():
        if pid in pids or mine.rank in taken or mine.rank is None or not procfs.is_python(pid):
            continue
        if _has_it_from_above(pid, tree, ranks) or _launches(pid, tree, ranks):
            continue
        if all(_same_job(job_of(pid), job) for job in jobs):
            taken.add(mine.rank)
            found[mine.rank] = worker_of(pid, mine)
    return [found[rank] for rank in sorted(found)]


def worker_of(pid: int, ranks: Ranks) -> WorkerInfo:
    """Return who ``pid`` is, without what its framework calls it."""
    return WorkerInfo(
        pid=pid,
        start_time=procfs.start_time(pid),
        rank=ranks.rank,
        local_rank=ranks.local_rank,
        restart_count=ranks.restart_count,
    )


def world_size(workers: Iterable[WorkerInfo]) -> int | None:
    """Return how many ranks the job has, where all that say so agree."""
    workers = list(workers)
    sizes = {ranks_of(int(worker.pid)).world_size for worker in workers} - {None}
    size = sizes.pop() if len(sizes) == 1 else None
    largest = max((worker.rank for worker in workers if worker.rank is not None), default=-1)
    return size if size is not None and size > largest else None


def add_descendants(
    found: dict[int, int],
    queue: list[int],
    *,
    most: int,
    until: float = math.inf,
    without: Container[int] = (),
) -> None:
    """Add to ``found`` the descendants of those in ``queue``, each with its parent, those first.

    This process and its descendants are left out.

    :param most: how many there may be in all before the search ends.
    :param until: the moment of ``time.monotonic()`` at which it ends in any case.
    :param without: processes that are left out with all that they started.
    """
    while queue and len(found) < most and time.monotonic() < until:
        parent = queue.pop(0)
        for child in procfs.children(parent):
            if child not in found and child != os.getpid() and child not in without:
                found[child] = parent
                queue.append(child)


def _ancestors(pid: int, tree: dict[int, int]) -> list[int]:
    found = []
    while (pid := tree.get(pid, 0)) and pid not in found:
        found.append(pid)
    return found


def _same_job(one: tuple[str | None, ...], other: tuple[str | None, ...]) -> bool:
    """Whether nothing speaks against it: who starts a job need not have its variables."""
    return all(a == b or None in (a, b) for a, b in zip(one, other, strict=True))


def _has_it_from_above(pid: int, tree: dict[int, int], ranks: dict[int, Ranks]) -> bool:
    """Whether it is a child of that rank, such as a worker of its DataLoader."""
    return any(
        each in ranks
        and (ranks[each].rank, ranks[each].strength) == (ranks[pid].rank, ranks[pid].strength)
        and procfs.is_python(each)
        for each in _ancestors(pid, tree)
    )


def _launches(pid: int, tree: dict[int, int], ranks: dict[int, Ranks]) -> bool:
    """Whether it starts ranks of its own: a task of Slurm, or a pod, that runs torchrun."""
    return any(
        found.rank is not None
        and found.strength > ranks[pid].strength
        and pid in _ancestors(each, tree)
        for each, found in ranks.items()
    )
