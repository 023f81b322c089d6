"""Explain what processes of this host do, and who holds them up, with no set-up before.

For whoever has pids and a question: the roll call before a kill uses the same samples.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from observability.samples.types import WorkerView
from observability.sampling.members import unregistered, worker_of, world_size
from observability.sampling.survey import Sampling
from timers.linux.ranks import ranks_of

from .report import analyse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .types import HangReport

__all__ = ["explain", "sample_job"]

_ANALYSIS_SHARE = 0.1
"""Of the time there is, for the report."""


def explain(
    pids: Iterable[int],
    *,
    timeout: float = 5.0,
    host: str = "",
) -> HangReport:
    """Sample these processes and the other ranks of their job, and say who holds up the others.

    Takes at most ``timeout`` seconds, and about half a second when nothing hangs that should not.
    A process that is gone, or may not be read, is part of the report as what it is. From any
    thread; sampling threads are started and ended.

    :param pids: processes of this host; those that belong to one job are compared.
    :param timeout: seconds.
    :param host: this machine's name, for the report.
    """
    views, size = sample_job(pids, timeout=timeout, host=host)
    return analyse(views, world_size=size)


def sample_job(
    pids: Iterable[int],
    *,
    timeout: float = 5.0,
    host: str = "",
    native: bool = False,
    whole_job: bool = True,
) -> tuple[list[WorkerView], int | None]:
    """Take the samples of :func:`explain`; return them and the number of ranks the job has.

    The number is None when it is not known.

    :param native: whether every stack is taken with its C frames, which pauses the processes.
    :param whole_job: whether the other ranks of their job that run on this host are sampled, too.
    """
    until = time.monotonic() + timeout * (1 - _ANALYSIS_SHARE)
    workers = [worker_of(pid, ranks_of(pid)) for pid in dict.fromkeys(pids)]
    if whole_job:
        workers += unregistered(workers, timeout=timeout / 4)
    sampling = Sampling(native=native)
    try:
        views = sampling.survey([WorkerView(worker=each, host=host) for each in workers], until)
    finally:
        sampling.close()
    return views, world_size(workers)
