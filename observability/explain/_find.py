"""The jobs that run on this host: what ``timers run`` or another launcher started."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from observability.sampling.members import job_of
from observability.untrusted import cut
from timers.linux import procfs
from timers.linux.ranks import ranks_of
from timers.worker.environment import SERVER_PID_VARIABLE

_RUN_ID_VARIABLES = ("TIMERS_RUN_ID", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID")
_MOST_COMMAND = 80


@dataclass(slots=True)
class FoundJob:
    """One job."""

    run_id: str
    roots: list[int] = field(default_factory=list)
    """Processes from which all others of it descend: ``timers run``, else its ranks."""
    ranks: set[int] = field(default_factory=set)

    @property
    def command(self) -> str:
        """What its first process runs, for people."""
        return cut(" ".join(procfs.command(self.roots[0])).strip(), _MOST_COMMAND)


def find_jobs() -> list[FoundJob]:
    """Find the jobs whose processes this user may read, in the order of their first pid."""
    own = {os.getpid(), *procfs.ancestors(os.getpid())}
    found: dict[object, FoundJob] = {}
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        environment = {} if pid in own else procfs.environment(pid)
        rank = ranks_of(pid, environment).rank if environment else None
        ancestors = procfs.ancestors(pid) if SERVER_PID_VARIABLE in environment else []
        server = next(
            (each for each in ancestors if str(each) == environment[SERVER_PID_VARIABLE]), None
        )
        if server is None and rank is None:
            continue
        job = found.setdefault(server or job_of(pid), FoundJob(run_id_of(environment)))
        root = pid if server is None else server
        if root not in job.roots and not set(job.roots).intersection(procfs.ancestors(pid)):
            job.roots.append(root)
        if rank is not None:
            job.ranks.add(rank)
    return sorted(found.values(), key=lambda job: job.roots)


def run_id_of(environment: dict[str, str]) -> str:
    """Return what the launcher of a process calls its job; empty when it does not say."""
    return next((environment[name] for name in _RUN_ID_VARIABLES if environment.get(name)), "")
