"""What the hang report is made from: each worker of a run, and its samples.

Plain data. Where a thing is not known it is None, and the analysis then says less, never more.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from observability.recorder.types import Recording
    from timers.events import WorkerInfo
    from timers.stacks.take import Frame, StackDump

__all__ = [
    "NOTHING_KNOWN",
    "Descendant",
    "Link",
    "Loop",
    "Pace",
    "Sample",
    "Source",
    "Surroundings",
    "WorkerView",
]


class Pace(enum.StrEnum):
    """Whether a worker got anywhere between several samples of it."""

    STUCK = "stuck"
    """The same frames and no CPU time."""
    WAITING = "waiting"
    """The same, of one that is not to blame. Only reports say so: samples do not know it."""
    SPINNING = "spinning"
    """The same function, with the CPU busy."""
    REPEATING = "repeating"
    """It sleeps in the same place, but not the same sleep: it asks for something again and again,
    or moves in small steps."""
    SLOW = "slow"
    """It moved."""
    UNKNOWN = "unknown"
    """Sampled once only, or the samples do not decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A sample of a process."""

    dump: StackDump
    at_seconds: float = 0.0
    """When, on any clock of the host that is not stepped: only differences are used."""
    cpu_seconds: float | None = None
    """CPU time of the thread that matters; without it that of the process is used."""
    switches: int | None = None
    """Voluntary context switches of that thread (proc(5), ``status``). Two samples with the same
    number show that it did not wake up in between, which neither stacks nor CPU time can show."""
    faults: int | None = None
    """Pages that it was first to touch, counted. One that works takes memory and gives it back."""

    @property
    def cpu(self) -> float | None:
        """CPU seconds of the thread, else of its process."""
        return self.dump.facts.cpu_seconds if self.cpu_seconds is None else self.cpu_seconds


class Loop(enum.Enum):
    """The innermost loop around a line."""

    NONE = "no loop"
    BOUNDED = "a for"
    WHILE = "a while"
    ASKING = "a while that asks for something"
    """Nothing else is called in it: whatever it waits for, it does no work."""


@dataclass(frozen=True, slots=True)
class Source:
    """One line of the job's own code."""

    text: str
    """Without the white space around it; at most 120 characters."""
    loop: Loop = Loop.NONE
    head: str = ""
    """The text of the loop's own line."""


@dataclass(frozen=True, slots=True)
class Link:
    """What a thread is blocked on in the kernel."""

    what: str
    """In words: ``the lock /data/.lock``, ``a pipe``, ``a connection to 10.0.0.7:443``."""
    pids: tuple[int, ...] = ()
    """Other processes of this host that hold the lock, or have the other end open."""
    own_end: bool = False
    """Whether the process has the other end open itself."""
    is_lock: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is known of where a process is, besides its samples."""

    source: Source | None = None
    """At the line that matters."""
    native: tuple[Frame, ...] = ()
    """The stack of the thread that matters with its C frames, innermost first."""
    gpu: bool = False
    """Whether it has a GPU open."""
    in_driver: bool | None = None
    """Whether what it runs is the driver of a GPU; None when that is not known."""
    mpi: bool = False
    """Whether it has a library of MPI loaded, which waits with the CPU busy."""
    link: Link | None = None


NOTHING_KNOWN = Surroundings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Descendant:
    """A process that a worker started, or that one of those started."""

    pid: int
    parent: int
    samples: tuple[Sample, ...] = ()
    """The oldest first."""
    command: str = ""
    """The kernel's name for it (``/proc/PID/comm``)."""
    pace: Pace = Pace.UNKNOWN
    """As in :class:`WorkerView`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One worker of the run as it was when the first timer expired."""

    worker: WorkerInfo
    host: str = ""
    samples: tuple[Sample, ...] = ()
    """The oldest first; the last one was taken at the expiry. Empty for a worker that is gone."""
    gone: str | None = None
    """For a worker that has ended: how, as words after "it": ``was killed by SIGKILL``."""
    unclean: bool = False
    """Whether it ended by a signal, with a failure, or inside one of its scopes."""
    scope_id: str | None = None
    """The timer that matters: the one that expired, else its innermost one; None without any."""
    thread: int | None = None
    """Native id of the thread that holds that timer; None when unknown."""
    expired: bool = False
    """Whether one of its timers is past its deadline."""
    after_seconds: float | None = None
    elapsed_seconds: float | None = None
    descendants: tuple[Descendant, ...] = ()
    pace: Pace = Pace.UNKNOWN
    """What is known of it from elsewhere; used when the samples given here do not tell."""
    surroundings: Surroundings = NOTHING_KNOWN
    recording: Recording | None = None
    """What its Flight Recorder says; None when it was not asked."""

    @property
    def pid(self) -> int:
        """Its process, of a worker on this host."""
        return int(self.worker.pid)

    @property
    def dump(self) -> StackDump | None:
        """The stacks at the expiry."""
        return self.samples[-1].dump if self.samples else None
