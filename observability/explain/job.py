"""Sample the workers of a process tree, and say who holds up the others.

The workers are the ranks of the tree. In a tree without ranks they are its Python processes,
except those that only wait for the processes they started (a launcher, the parent of a pool) and
those that belong to the machinery of :mod:`multiprocessing`; what a worker has started itself is
part of that worker.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from observability.hang.json import extra_fields
from observability.hang.report import analyse
from observability.samples.frames import library_path
from observability.samples.threads import thread_that_matters
from observability.samples.types import Descendant, WorkerView
from observability.samples.waits import Wait
from observability.samples.worker import read
from observability.sampling.members import add_descendants, unregistered, worker_of, world_size
from observability.sampling.process_facts import add_open_files
from observability.sampling.survey import Sampling
from timers.bounded import left
from timers.events import StackDumped
from timers.linux import procfs
from timers.linux.ranks import ranks_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from observability.hang.types import HangReport
    from timers.stacks.take import Frame

__all__ = ["Explained", "descendants", "explain_tree", "sample_job", "without_launchers"]

_MOST_PROCESSES = 4096
_ANALYSIS_SHARE = 0.1
"""Of the time there is, for the report."""
_HELPERS = ("multiprocessing/resource_tracker.py", "multiprocessing/forkserver.py")
_JOINING = ("multiprocessing/connection.py", "torch/multiprocessing/spawn.py")
_POOLS = ("multiprocessing/pool.py", "concurrent/futures/", "torch/utils/data/")
_NEAR = 3
"""Innermost calls that say what a process is there for."""
_FAR = 8
"""Innermost calls among which is the one of a pool, when somebody waits for its results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What a process tree does."""

    views: tuple[WorkerView, ...]
    """One for each worker, with its samples."""
    report: HangReport
    launchers: tuple[int, ...] = ()
    """Pids that only wait for workers, and are none themselves."""

    def stacks(self, run_id: str) -> Iterator[StackDumped]:
        """Make a ``stack dumped`` for each worker, the same event that an expiry makes."""
        now = time.time()
        named = {each.pid for each in self.report.suspects}
        for view in self.views:
            if view.samples:
                extras = extra_fields(view, innocent=view.worker.pid not in named)
                dump = add_open_files(view.samples[-1].dump)
                yield StackDumped(
                    timestamp=now,
                    run_id=run_id,
                    worker=view.worker,
                    timer=None,
                    elapsed_seconds=math.nan,
                    dump=replace(dump, extras=(("expired", False), *extras.items())),
                )


def descendants(roots: Sequence[int]) -> dict[int, int]:
    """Map ``roots`` and all that they have started to their parents, parents first.

    This process and what it has started are left out.
    """
    found = {
        pid: 0 if (stat := procfs.stat(pid)) is None else stat.parent
        for pid in roots
        if pid != os.getpid()
    }
    add_descendants(found, list(found), most=_MOST_PROCESSES)
    return found


def explain_tree(
    roots: Sequence[int], *, timeout: float, host: str = "", native: bool = False
) -> Explained:
    """Sample the workers of the trees below ``roots``, and report.

    Takes half a second, more with dozens of processes, at most ``timeout``. From any thread.

    :param roots: processes of this host: launchers, or workers of one job.
    :param timeout: seconds.
    :param host: this machine's name, for the report.
    :param native: whether stacks have C frames, too; pauses the processes.
    """
    until = time.monotonic() + timeout
    tree = descendants(roots)
    named = [pid for pid in roots if _is_rank(pid)]
    below = unregistered([], timeout=timeout / 8, roots=[pid for pid in roots if pid not in named])
    ranks = [*named, *(int(worker.pid) for worker in below)]
    chosen = ranks or [pid for pid in tree if procfs.is_python(pid)] or list(roots)
    views, size = sample_job(
        chosen, timeout=left(until), host=host, native=native, whole_job=bool(ranks)
    )
    launchers: list[int] = []
    if not ranks:
        views, launchers = without_launchers(views, tree)
    return Explained(
        views=tuple(views), report=analyse(views, world_size=size), launchers=tuple(launchers)
    )


def sample_job(
    pids: Iterable[int],
    *,
    timeout: float = 5.0,
    host: str = "",
    native: bool = False,
    whole_job: bool = True,
) -> tuple[list[WorkerView], int | None]:
    """Sample these processes and the other ranks of their job.

    Takes at most ``timeout`` seconds, and about half a second when nothing hangs that should not. A
    process that is gone, or may not be read, is there as what it is. From any thread; sampling
    threads are started and ended.

    :param pids: processes of this host that belong to one job.
    :param timeout: seconds, with those for a report.
    :param host: this machine's name.
    :param native: whether every stack is taken with its C frames, which pauses the processes.
    :param whole_job: whether the other ranks of their job that run on this host are sampled, too.
    :returns: the workers, and how many ranks the job has; None when that is not known.
    """
    until = time.monotonic() + timeout * (1 - _ANALYSIS_SHARE)
    workers = [worker_of(pid, ranks_of(pid)) for pid in dict.fromkeys(pids)]
    if whole_job:
        workers += unregistered(workers, timeout=timeout / 4)
    with contextlib.closing(Sampling(native=native)) as sampling:
        views = sampling.survey([WorkerView(worker=each, host=host) for each in workers], until)
    return views, world_size(workers)


def without_launchers(
    views: Sequence[WorkerView], parents: Mapping[int, int]
) -> tuple[list[WorkerView], list[int]]:
    """Leave out who only waits for others of ``views``; make helpers part of their worker. Pure.

    Returns the workers, and the pids of those who only wait for them.

    :param parents: of each process of the tree.
    """
    kept = {view.pid: view for view in views if not _is_machinery(view)}
    above = {pid: _nearest(pid, kept, parents) for pid in kept}
    having = Counter(parent for parent in above.values() if parent is not None)
    launchers = {pid for pid, view in kept.items() if having[pid] and _waits_for_children(view)}
    helpers: dict[int, list[Descendant]] = {}
    for pid, parent in above.items():
        if parent is None or parent in launchers:
            continue
        worker = parent
        while (next_one := above[worker]) is not None and next_one not in launchers:
            worker = next_one
        helpers.setdefault(worker, []).append(
            Descendant(pid=pid, parent=parent, samples=kept[pid].samples)
        )
    inside = {each.pid for found in helpers.values() for each in found}
    workers = [
        replace(view, descendants=(*helpers.get(pid, ()), *view.descendants))
        for pid, view in kept.items()
        if pid not in launchers and pid not in inside
    ]
    return workers, sorted(launchers)


def _nearest(pid: int, kept: Mapping[int, WorkerView], parents: Mapping[int, int]) -> int | None:
    while (pid := parents.get(pid, 0)) and pid not in kept:
        pass
    return pid or None


def _is_machinery(view: WorkerView) -> bool:
    return any(
        library_path(frame.file) in _HELPERS and frame.function == "main"
        for frame in _innermost(view)
    )


def _waits_for_children(view: WorkerView) -> bool:
    """Whether it waits for processes to end; not for what its helpers have to give it."""
    if any((library_path(frame.file) or "").startswith(_POOLS) for frame in _innermost(view, _FAR)):
        return False
    if read(replace(view, descendants=())).reason.wait is Wait.CHILD:
        return True
    return any(
        library_path(frame.file) in _JOINING and frame.function.rpartition(".")[2] in _WAITING
        for frame in _innermost(view)
    )


_WAITING = ("wait", "join")


def _innermost(view: WorkerView, most: int = _NEAR) -> Sequence[Frame]:
    dump = view.dump
    stack = None if dump is None else thread_that_matters(dump, None)
    return () if stack is None else stack.frames[:most]


def _is_rank(pid: int) -> bool:
    return procfs.is_python(pid) and ranks_of(pid).rank is not None and not _starts_ranks(pid)


def _starts_ranks(pid: int) -> bool:
    """Whether it has children that are other ranks: a task of Slurm that runs torchrun."""
    own = ranks_of(pid)
    return any(
        (found := ranks_of(child)).rank is not None and found.strength > own.strength
        for child in procfs.children(pid)
    )
