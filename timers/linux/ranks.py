"""Which rank of its job a process is: from the variables of its launcher, or as it says itself.

Launchers put the rank into the environment, each under a name of its own; what a process was
started with can be read from outside. One that is given its rank later (``mp.spawn``, Lightning,
Ray) sets the variables itself, which nobody sees: :func:`announce` writes them to a file, in the
directory that ``timers run`` made for the job.

Two things are found out from relatives. Lightning's own launcher is rank 0 itself, and nothing that
it was started with says so: what it gave the ranks that it started does. And what
:mod:`multiprocessing` starts has the variables of its parent, which may have set them for itself.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from . import procfs
from .notes import DIRECTORY_VARIABLE, open_note, read_note

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Ranks", "announce", "job_environment", "ranks_from", "ranks_of"]

_KIND = "rank"
_DIGITS = 9
"""More is no rank, and no number for those who read it in events and spans."""
_MOST_BYTES = 200
_LAUNCHERS = (
    # torchrun, DeepSpeed, accelerate and Ray Train, once its workers have set it
    ("RANK", "LOCAL_RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    ("PMIX_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE"),  # MPICH, Intel MPI
    ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"),
)
_LIGHTNING = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")
"""What Lightning's own launcher gives the processes that it starts, with the two below."""
_MEETING = ("MASTER_ADDR", "MASTER_PORT")
_SPAWNED = "--multiprocessing-fork"
"""An argument of what :mod:`multiprocessing` starts anew (``multiprocessing/spawn.py``)."""
_MACHINERY = (
    "from multiprocessing.resource_tracker import",
    "from multiprocessing.forkserver import",
)
"""How the programs of its helpers begin."""


class Ranks(NamedTuple):
    """The place of a process in its job; None where it is not known."""

    rank: int | None = None
    local_rank: int | None = None
    world_size: int | None = None
    restart_count: int | None = None
    strength: int = 0
    """How close to the worker its source is: a pod, or a task of Slurm, may start torchrun, which
    starts ranks of its own."""


def ranks_from(environment: Mapping[str, str]) -> Ranks:
    """Read the variables of all launchers; the innermost one that says a rank decides."""
    restarts = _number(environment.get("TORCHELASTIC_RESTART_COUNT"))
    inner = _is_lightnings(environment)
    for position, (rank, local, size) in enumerate(_LAUNCHERS):
        found = _number(environment.get(rank))
        if found is not None and not (inner and position > 0):
            return Ranks(
                found,
                _number(environment.get(local)),
                _number(environment.get(size)),
                restarts,
                len(_LAUNCHERS) - position + ("TORCHELASTIC_RUN_ID" in environment),
            )
    # Lightning's own launcher gives a process its number on the node, and the node's.
    local_rank = _number(environment.get("LOCAL_RANK"))
    rank_there = local_rank if _number(environment.get("NODE_RANK")) == 0 else None
    return Ranks(
        rank_there,
        local_rank,
        _number(environment.get("WORLD_SIZE")),
        restarts,
        len(_LAUNCHERS) if rank_there is not None else 0,
    )


def _is_lightnings(environment: Mapping[str, str]) -> bool:
    """Whether Lightning's own launcher ran within a task of another one, as in a shell of Slurm.

    All that it started have the variables of that one task, so that these contradict its own.
    """
    if None in (_number(environment.get(name)) for name in _LIGHTNING):
        return False
    return any(
        environment.get(outer, environment[inner]) != environment[inner]
        for _, *names in _LAUNCHERS[1:]
        for outer, inner in zip(names, ("LOCAL_RANK", "WORLD_SIZE"), strict=True)
    )


def ranks_of(pid: int, environment: dict[str, str] | None = None) -> Ranks:
    """Find out which rank ``pid`` is: as it announced, else from what it was started with.

    :param environment: of the process, where the caller has read it.
    """
    if environment is None:
        environment = procfs.environment(pid)
    announced = _announced(pid, environment)
    if announced:
        return ranks_from({**environment, **announced})
    found = ranks_from(environment)
    if (found.rank, found.local_rank) != (None, None) and _is_inherited(pid, environment):
        return Ranks()
    return ranks_from({**environment, **_given(pid, environment)})


def job_environment(pid: int) -> dict[str, str]:
    """Read what ``pid`` was started with, and what it gave the other ranks of its job."""
    environment = procfs.environment(pid)
    return {**environment, **_given(pid, environment)}


def _given(pid: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a process that is the first rank on its node gave the ranks that it started.

    Only Lightning's own launcher (``lightning/fabric/strategies/launchers/subprocess_script.py``)
    does so: it starts all but the first. Empty for all other processes.
    """
    if "RANK" in environment or "LOCAL_RANK" in environment:
        return {}
    below = {child: procfs.environment(child) for child in procfs.children(pid)}
    for child, given in below.items():
        numbers = [_number(given.get(name)) for name in _LIGHTNING]
        if "RANK" in given or None in numbers or numbers[0] == 0:
            continue
        # A launcher that is no rank itself runs the same program for the first one. The first
        # one's helpers have its variables as well, and are other programs.
        program = procfs.command(child)
        if not program or any(
            _number(other.get("LOCAL_RANK")) == 0 and procfs.command(one) == program
            for one, other in below.items()
        ):
            return {}
        kept = {name: given[name] for name in (*_LIGHTNING, *_MEETING) if name in given}
        return {**kept, "LOCAL_RANK": "0"}
    return {}


def _is_inherited(pid: int, environment: Mapping[str, str]) -> bool:
    """Whether the rank that ``pid`` was started with is that of its parent, if anybody's.

    So it is for helpers of :mod:`multiprocessing`, and for processes that it started of which more
    than one has the same rank: of ``mp.spawn``, or of a DataLoader.
    """
    command = procfs.command(pid)
    if any(word.startswith(_MACHINERY) for word in command):
        return True
    found = None if _SPAWNED not in command else procfs.stat(pid)
    if found is None:
        return False
    own = ranks_from(environment)
    return any(
        other != pid
        and _SPAWNED in procfs.command(other)
        and ranks_from(procfs.environment(other)) == own
        for other in procfs.children(found.parent)
    )


def announce(environment: Mapping[str, str]) -> None:
    """Write down the rank of this process, for whoever watches it. Never raises.

    Without the directory of ``TIMERS_RECORDER_DIR``, or without a rank, nothing is written.
    """
    directory = environment.get(DIRECTORY_VARIABLE)
    found = ranks_from(environment)
    if not directory or (found.rank is None and found.local_rank is None):
        return
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    pairs = zip(names, found, strict=False)
    lines = [f"{name}={value}\n" for name, value in pairs if value is not None]
    with (
        contextlib.suppress(OSError),
        contextlib.closing(os.fdopen(open_note(directory, _KIND), "w")) as file,
    ):
        file.write("".join(lines))


def _announced(pid: int, environment: dict[str, str]) -> dict[str, str]:
    text = read_note(pid, _KIND, most=_MOST_BYTES, environment=environment)
    pairs = (line.partition("=") for line in text.splitlines())
    return {name: value for name, _, value in pairs if _number(value) is not None}


def _number(text: str | None) -> int | None:
    known = text is not None and text.isascii() and text.isdigit() and len(text) <= _DIGITS
    return int(text) if known and text is not None else None
