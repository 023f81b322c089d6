"""Made-up stacks of jobs too large to start, in the shape of real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from observability.samples.types import Sample, WorkerView
from timers.events import WorkerInfo
from timers.linux.procfs import ProcessFacts
from timers.stacks.take import Frame, StackDump, ThreadStack

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["IN_ALL_REDUCE", "IN_BARRIER", "OUTER", "looking", "view"]

_TORCH = "/opt/venv/lib/python3.12/site-packages/torch/distributed"
OUTER = (
    Frame("train_step", "/job/train.py", 212),
    Frame("train", "/job/train.py", 301),
    Frame("main", "/job/train.py", 340),
    Frame("<module>", "/job/train.py", 352),
)
IN_ALL_REDUCE = (
    Frame("all_reduce", f"{_TORCH}/distributed_c10d.py", 2810),
    Frame("wrapper", f"{_TORCH}/c10d_logger.py", 83),
    *OUTER,
)
IN_BARRIER = (
    Frame("barrier", f"{_TORCH}/distributed_c10d.py", 4159),
    Frame("wrapper", f"{_TORCH}/c10d_logger.py", 83),
    Frame("save", "/job/checkpoint.py", 40),
    *OUTER[1:],
)


def looking(
    pid: int,
    frames: Sequence[Frame],
    *,
    state: str | None = "sleeping",
    channel: str | None = "futex_do_wait",
    at: float = 0.0,
    cpu: float | None = None,
    switches: int | None = None,
    active: bool = False,
    others: Sequence[ThreadStack] = (),
) -> Sample:
    """One look at a process whose main thread is in ``frames``."""
    # Python code that runs holds the interpreter's lock.
    main = ThreadStack(
        frames=tuple(frames), thread=pid, name="MainThread", active=active, holds_gil=active
    )
    return Sample(
        dump=StackDump(
            pid=pid,
            method="py-spy" if frames else "proc",
            threads=(main, *others) if frames else (),
            facts=ProcessFacts(state=state, wait_channel=channel, cpu_seconds=cpu, threads=1),
        ),
        at_seconds=at,
        switches=switches,
    )


def view(
    rank: int,
    *samples: Sample,
    host: str | None = None,
    pid: int | None = None,
    scope: str | None = "step",
    expired: bool = True,
    gone: str | None = None,
    unclean: bool = False,
) -> WorkerView:
    """A worker, eight on a host."""
    return WorkerView(
        worker=WorkerInfo(pid=pid or 1000 + rank, rank=rank, local_rank=rank % 8),
        host=f"node{rank // 8}" if host is None else host,
        samples=samples,
        gone=gone,
        unclean=unclean,
        scope_id=scope,
        expired=expired,
    )
