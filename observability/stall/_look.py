"""What the kernel and the timers have counted of a job at one moment."""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING, NamedTuple

from observability.explain.job import descendants
from observability.explain.rates import Counts, count
from timers.linux import links, procfs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Identity = tuple[int, int]
"""Pid and start time."""
# Numbers: asm/unistd_64.h and asm-generic/unistd.h.
_WRITES = {
    # write, close, pwrite64, writev, msync, sendfile, sendto, sendmsg, fsync, fdatasync, sync,
    # splice, sync_file_range, pwritev, syncfs, copy_file_range, pwritev2
    "x86_64": (1, 3, 18, 20, 26, 40, 44, 46, 74, 75, 162, 275, 277, 296, 306, 326, 328),
    "aarch64": (57, 64, 66, 68, 70, 71, 76, 81, 82, 83, 84, 206, 211, 227, 267, 285, 287),
}
_READS = {
    # read, pread64, readv, preadv, preadv2
    "x86_64": (0, 17, 19, 295, 327),
    "aarch64": (63, 67, 65, 69, 286),
}


class LongCall(NamedTuple):
    """A system call that may take minutes and get on meanwhile: a large write, an fsync.

    The kernel counts what is read and written when a call returns. One write(2) of a checkpoint, to
    a slow disk or to the pipe of an uploader, returns after minutes; until then each piece that is
    taken wakes the thread, which goes on in the same call. One that is stuck is not woken. Who
    reads from a pipe or a socket does not belong here: that call returns with the first piece.
    """

    call: str
    """Number and arguments: see :func:`timers.linux.procfs.system_call`."""
    switches: int
    """Times that the thread has gone to sleep."""


class Look(NamedTuple):
    """A job at one moment."""

    at: float
    """Seconds, on the clock of ``time.monotonic``."""
    processes: Mapping[Identity, Counts]
    python: frozenset[Identity]
    """Those that run Python: workers and what they start for themselves. Other programs come and
    go in a job that stands still, such as one that asks a GPU for its temperature."""
    blocks: int = 0
    """How often a timer was acquired or released so far."""
    calls: Mapping[tuple[Identity, int], LongCall] = {}
    """By process and thread, those that take long by themselves."""


def take_look(roots: Sequence[int], *, blocks: int) -> Look:
    """Read the counts of all processes below ``roots``, those included."""
    counts = {(pid, found.start_time): found for pid, found in count(descendants(roots)).items()}
    python = frozenset(key for key in counts if procfs.is_python(key[0]))
    calls = {(key, thread): call for key in counts for thread, call in _long_calls(key[0])}
    return Look(time.monotonic(), counts, python, blocks, calls)


def _long_calls(pid: int) -> Iterator[tuple[int, LongCall]]:
    """Find the threads of ``pid`` that are in a :class:`LongCall`; needs the right to trace it."""
    for thread in procfs.threads(pid):
        call = procfs.system_call(pid, thread)
        if call and _is_long(pid, call):
            switches = procfs.voluntary_switches(pid, thread)
            if switches is not None:
                yield thread, LongCall(" ".join(call), switches)


def _is_long(pid: int, words: list[str]) -> bool:
    number, machine = int(words[0]), platform.machine()
    if number in _WRITES.get(machine, ()):
        return True
    if number not in _READS.get(machine, ()):
        return False
    return (links.opened(pid, int(words[1], 16)) or "").startswith("/")
