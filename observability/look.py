"""One look at a live process for the hang report: its stacks and what the kernel counts."""

from __future__ import annotations

import os
import time

from timers import procfs, stacks

from .hang_input import Descendant, Look

__all__ = ["descendants", "look_at"]

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_MOST_DESCENDANTS = 64


def look_at(pid: int, *, thread: int | None, timeout: float, native: bool = False) -> Look:
    """Look at ``pid`` now; within ``timeout`` seconds, and never raising.

    :param thread: native id of the thread that matters; by default the main one.
    """
    dump = stacks.take(pid, timeout=timeout, native=native)
    number = pid if thread is None else thread
    return Look(
        dump=dump,
        at_seconds=time.monotonic(),
        cpu_seconds=_cpu_seconds(pid, number),
        switches=_switches(pid, number),
    )


def descendants(pid: int, *, timeout: float) -> tuple[Descendant, ...]:
    """Look at what ``pid`` started and what those started, at most 64 of them, once each."""
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
            looks = (look_at(child, thread=None, timeout=left),)
            command = names.get(child, "")
            found.append(Descendant(pid=child, parent=parent, looks=looks, command=command))
            parents.append(child)
    return tuple(found)


def _cpu_seconds(pid: int, thread: int) -> float | None:
    text = _read(f"/proc/{pid}/task/{thread}/stat")
    if not text:
        return None
    fields = text.rpartition(")")[2].split()  # proc(5): the name before may hold anything
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def _switches(pid: int, thread: int) -> int | None:
    for line in (_read(f"/proc/{pid}/task/{thread}/status") or "").splitlines():
        if line.startswith("voluntary_ctxt_switches:"):
            return int(line.split()[1])
    return None


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None
