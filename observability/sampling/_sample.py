"""Sample a live process: its stacks, what the kernel counts, what else surrounds it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from observability.samples.frames import c_frames
from observability.samples.reading import Condition
from observability.samples.threads import thread_that_matters
from observability.samples.types import Sample, Surroundings
from observability.samples.waits import Wait
from timers.bounded import left
from timers.linux import links, procfs
from timers.stacks import take as stacks

from ._instructions import instruction_files, is_driver
from ._source import source_at
from ._tasks import with_task
from .members import add_descendants

if TYPE_CHECKING:
    from collections.abc import Container

    from observability.samples.reading import Reading
    from timers.stacks.take import Frame

_MOST_DESCENDANTS = 64
_GPUS = ("/dev/nvidia", "/dev/kfd", "/dev/dri/", "/dev/accel")
_MPI = ("libmpi", "libpmpi", "libmpich")
_MOST_MAPS_BYTES = 4 << 20
_ASK_SHARE = 0.25
_NATIVE_SECONDS = 4.0
"""A torch process has thousands of symbols: with its C frames a stack takes 1 s and more."""


def take_sample(
    pid: int,
    *,
    thread: int | None,
    timeout: float,
    native: bool = False,
    scope_id: str | None = None,
) -> Sample:
    """Sample ``pid`` now; within ``timeout`` seconds, and never raising.

    :param thread: native id of the thread that matters; by default the main one.
    :param scope_id: of the timer that it holds.
    """
    until = time.monotonic() + timeout
    dump = stacks.take(pid, timeout=timeout, native=native)
    # A thread of the worker answers, unless it cannot.
    dump = with_task(dump, thread, scope_id, time.monotonic() + _ASK_SHARE * left(until))
    number = pid if thread is None else thread
    return Sample(
        dump=dump,
        at_seconds=time.monotonic(),
        cpu_seconds=procfs.thread_cpu_seconds(pid, number),
        switches=procfs.voluntary_switches(pid, number),
        faults=procfs.page_faults(pid, number),
    )


def processes_below(pid: int, *, without: Container[int] = ()) -> list[tuple[int, int]]:
    """List what ``pid`` started and what those started, each with its parent, at most 64.

    :param without: processes that are left out with all that they started: workers themselves.
    """
    found: dict[int, int] = {}
    add_descendants(found, [pid], most=_MOST_DESCENDANTS, without=without)
    return list(found.items())[:_MOST_DESCENDANTS]


def native_frames(pid: int, thread: int | None, timeout: float) -> tuple[Frame, ...]:
    """Take the stack of a thread with its C frames, which pauses its process for a moment.

    :param thread: native id; by default the main one.
    :param timeout: seconds; never more than 4 are taken.
    :returns: the innermost first; empty where they may not be read.
    """
    if timeout <= 0:
        return ()
    dump = stacks.take(pid, timeout=min(timeout, _NATIVE_SECONDS), only_native=True)
    stack = thread_that_matters(dump, thread)
    return stack.frames if stack is not None else ()


def surroundings(
    pid: int, reading: Reading, *, thread: int | None, timeout: float, native: bool
) -> Surroundings:
    """Find out what else tells what ``pid`` does, when its samples alone leave that open.

    :param reading: what its samples say.
    :param timeout: seconds, for looking into C.
    :param native: whether that may be done, which pauses the process for a moment.
    """
    until = time.monotonic() + timeout
    runs = reading.condition is Condition.RUNNING
    if not runs and reading.reason.wait is not Wait.SLEEP:
        return Surroundings()
    own = reading.own
    gpu, mpi = (_has_gpu(pid), _has_mpi(pid)) if runs else (False, False)
    files = instruction_files(pid, thread or pid, timeout) if native and gpu else ()
    driver = is_driver(files)
    # They name the operation of MPI, too.
    wanted = native and (mpi or (gpu and driver is None))
    frames = native_frames(pid, thread, left(until)) if wanted else ()
    return Surroundings(
        source=None if own is None else source_at(pid, own.file, own.line),
        native=frames,
        gpu=gpu,
        in_driver=is_driver(frame.file for frame in c_frames(frames)) if driver is None else driver,
        mpi=mpi,
    )


def _has_gpu(pid: int) -> bool:
    return any(opened.startswith(_GPUS) for _, opened in links.descriptors(pid))


def _has_mpi(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
            text = file.read(_MOST_MAPS_BYTES)
    except OSError:
        return False
    return any(f"/{name}" in text for name in _MPI)
