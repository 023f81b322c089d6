"""What the Flight Recorder of one rank says, as plain data."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["GroupRecord", "Operation", "Progress", "Recording"]


class Progress(enum.IntEnum):
    """How far one rank has come with one operation."""

    SCHEDULED = 0
    """Enqueued. Whether its stream has begun with it is known only with
    ``TORCH_NCCL_ENABLE_TIMING=1``."""
    STARTED = 1
    COMPLETED = 2


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a process group, as one rank called it."""

    number: int
    """Position among the collectives of the group, from 1; of a transfer among its transfers."""
    name: str
    """``all_reduce``, ``barrier``, ``send``: without the name of the backend."""
    sizes: tuple[tuple[int, ...], ...] = ()
    """Shape of each input."""
    dtype: str = ""
    """Element type of the first input, as torch names it: ``Float``."""
    progress: Progress = Progress.SCHEDULED
    peer: int | None = None
    """For a transfer: the other rank, by its number in the group."""

    @property
    def signature(self) -> tuple[object, ...]:
        """What has to be the same on every rank of the group."""
        return (self.name, self.sizes, self.dtype)


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """One process group, as one of its ranks has recorded it."""

    name: str
    """Torch's own, the same on all of its ranks."""
    backend: str = ""
    """``nccl``, ``gloo``: a group may have several, each with its own numbers."""
    description: str = ""
    ranks: tuple[int, ...] = ()
    """The global ranks of its members, in the order of the group; empty where it is not said."""
    collectives: tuple[Operation, ...] = ()
    """Those around the first that is not completed, oldest first; else the latest ones."""
    last: int = 0
    """Number of the latest collective; 0 without any."""
    transfers: tuple[Operation, ...] = ()
    """Sends and receives that are not completed, oldest first."""

    @property
    def pending(self) -> Operation | None:
        """The first collective that is not completed."""
        return next(
            (each for each in self.collectives if each.progress is not Progress.COMPLETED), None
        )


@dataclass(frozen=True, slots=True)
class Recording:
    """What one rank answered."""

    groups: tuple[GroupRecord, ...] = ()
    timed: bool = False
    """Whether it can be told which operations have started."""
    error: str | None = None
    """Why there is no answer; the rest is empty then."""

    @property
    def answered(self) -> bool:
        """Whether the rank said anything."""
        return self.error is None
