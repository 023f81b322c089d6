"""Which rank of its job a process is: from the variables of its launcher, or as it says itself.

Launchers put the rank into the environment, each under a name of its own; what a process was
started with can be read from outside. One that is given its rank later (``mp.spawn``, Lightning,
Ray) sets the variables itself, which nobody sees: :func:`announce` writes them to a file, in the
directory that ``timers run`` made for the job.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from . import procfs
from .notes import DIRECTORY_VARIABLE, open_note, read_note

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Ranks", "announce", "ranks_from", "ranks_of"]

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
    for position, (rank, local, size) in enumerate(_LAUNCHERS):
        found = _number(environment.get(rank))
        if found is not None:
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


def ranks_of(pid: int, environment: dict[str, str] | None = None) -> Ranks:
    """Find out which rank ``pid`` is: as it announced, else from what it was started with.

    :param environment: of the process, where the caller has read it.
    """
    if environment is None:
        environment = procfs.environment(pid)
    return ranks_from({**environment, **_announced(pid, environment)})


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
