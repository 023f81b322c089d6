"""Sample a live process for the hang report: its stacks and what the kernel counts."""

from __future__ import annotations

import time

from timers.linux import procfs
from timers.stacks import take as stacks

from .types import Descendant, Sample

__all__ = ["descendants", "take_sample"]

_MOST_DESCENDANTS = 64


def take_sample(pid: int, *, thread: int | None, timeout: float, native: bool = False) -> Sample:
    """Sample ``pid`` now; within ``timeout`` seconds, and never raising.

    :param thread: native id of the thread that matters; by default the main one.
    """
    dump = stacks.take(pid, timeout=timeout, native=native)
    number = pid if thread is None else thread
    return Sample(
        dump=dump,
        at_seconds=time.monotonic(),
        cpu_seconds=procfs.thread_cpu_seconds(pid, number),
        switches=procfs.voluntary_switches(pid, number),
    )


def descendants(pid: int, *, timeout: float) -> tuple[Descendant, ...]:
    """Sample what ``pid`` started and what those started, at most 64 of them, once each."""
    deadline = time.monotonic() + timeout
    found: list[Descendant] = []
    parents = [pid]
    while parents and len(found) < _MOST_DESCENDANTS:
        parent = parents.pop(0)
        for child in procfs.children(parent):
            left = deadline - time.monotonic()
            if left <= 0 or len(found) >= _MOST_DESCENDANTS:
                return tuple(found)
            names = procfs.thread_names(child)
            samples = (take_sample(child, thread=None, timeout=left),)
            command = names.get(child, "")
            found.append(Descendant(pid=child, parent=parent, samples=samples, command=command))
            parents.append(child)
    return tuple(found)
