"""Which store the workers of this host use, as their launcher has told them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from observability.sampling.members import unregistered
from timers.linux import procfs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from timers.events import WorkerInfo

_MOST_RANKS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job of several hosts, as one of its workers here knows it."""

    host: str
    """Where its store is."""
    port: int
    run_id: str
    ranks: tuple[int, ...]
    """Those of this host."""
    pid: int
    """Of the worker."""
    start_time: int | None
    interpreter: str
    environment: Mapping[str, str]

    @property
    def place(self) -> tuple[str, int, str, tuple[int, ...]]:
        """What has to be joined anew when it changes."""
        return self.host, self.port, self.run_id, self.ranks


def find_job(known: Sequence[WorkerInfo], roots: Iterable[int], *, timeout: float) -> Job | None:
    """Find the job of several hosts that workers here belong to; None without any.

    :param known: the registered workers.
    :param roots: processes among whose descendants further ranks may be.
    :param timeout: seconds, for looking at these.
    """
    pids = [int(worker.pid) for worker in known if str(worker.pid).isdigit()]
    found = next(filter(None, map(_job_of, pids)), None)
    if found is None:
        others = unregistered(known, timeout=timeout, roots=roots)
        found = next(filter(None, (_job_of(int(worker.pid)) for worker in others)), None)
    return found


def is_there(job: Job) -> bool:
    """Whether the worker that a job was found by is still there."""
    return procfs.start_time(job.pid) == job.start_time


def _job_of(pid: int) -> Job | None:
    start_time = procfs.start_time(pid)
    environment = procfs.environment(pid)
    numbers = [
        _number(environment.get(name))
        for name in ("MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    ]
    host = environment.get("MASTER_ADDR")
    if not host or None in numbers or not _is_ours(pid):
        return None
    port, rank, local_rank, size, local_size = (number or 0 for number in numbers)
    first = rank - local_rank
    if not (0 < port < 1 << 16 and 0 < local_size <= _MOST_RANKS and local_size < size):
        return None  # A job of one host needs no store.
    if first < 0:
        return None
    interpreter = _interpreter(pid)
    if interpreter is None:
        return None
    return Job(
        host=host,
        port=port,
        run_id=environment.get("TORCHELASTIC_RUN_ID", ""),
        ranks=tuple(range(first, first + local_size)),
        pid=pid,
        start_time=start_time,
        interpreter=interpreter,
        environment=environment,
    )


def _is_ours(pid: int) -> bool:
    """Whether it is of this very user and sees the same files: its interpreter is going to be run.

    As root, a program that somebody else chose is not.
    """
    try:
        same_files = os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
        same_root = os.path.samefile(f"/proc/{pid}/root", "/")
    except OSError:
        return False
    return procfs.owners(pid) == frozenset({os.geteuid()}) and same_files and same_root


def _interpreter(pid: int) -> str | None:
    """Return the path by which it was started: a link in a virtual environment finds its packages.

    The process itself says what that is, so it has to be the very program that runs.
    """
    try:
        first = next(iter(procfs.command(pid)), "")
        program = os.path.realpath(f"/proc/{pid}/exe")
        if first.startswith("/") and os.path.realpath(first) == program:
            return first
        return program if "python" in os.path.basename(program) else None
    except OSError:
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 9 else None  # noqa: PLR2004  # digits
