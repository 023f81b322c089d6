"""The events of a timer server: frozen classes, and the protocol of what receives them.

The names and levels are part of the public contract (they appear in logs, spans and alerts); the
ones torch has are torch's. An event carries plain values only, so that it can be kept, compared,
printed and handed to another thread. Times are seconds: ``timestamp`` is the wall clock, every
duration comes from the monotonic clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from .stacks.dump import StackDump

__all__ = [
    "Event",
    "Observer",
    "Outcome",
    "ReapFailed",
    "RequestRejected",
    "StackDumped",
    "TimerAcquired",
    "TimerExpired",
    "TimerInfo",
    "TimerOverran",
    "TimerReleased",
    "WatchdogStarted",
    "WatchdogStopped",
    "WorkerExited",
    "WorkerInfo",
    "WorkerKilled",
]


class Outcome(enum.StrEnum):
    """How a reap ended; the value of ``outcome`` in events and metrics."""

    KILLED = "killed"
    """The worker ended after the signal its client asked for."""
    ESCALATED = "escalated"
    """It outlived that signal for the grace period and ended after SIGKILL."""
    ALREADY_GONE = "already_gone"
    """It had ended by itself when the signal was due."""
    STILL_ALIVE = "still_alive"
    """It outlived SIGKILL (uninterruptible sleep); the reap is retried."""
    NOT_PERMITTED = "not_permitted"
    """The kernel refused the signal; the reap is retried."""
    ERROR = "error"
    """A custom ``_reap_worker`` raised; as in torch the worker counts as reaped."""

    @property
    def failed(self) -> bool:
        """Whether the worker may still be there, so that the reap has to be retried."""
        return self in (Outcome.STILL_ALIVE, Outcome.NOT_PERMITTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """Who a worker is. The three ranks come from its environment, as torchrun sets it."""

    pid: int | str
    """The process id; for somebody's own server, whatever it uses as ``worker_id``, as text."""
    start_time: int | None = None
    """Clock ticks after boot (proc(5)): with the pid, an identity that is never recycled."""
    rank: int | None = None
    local_rank: int | None = None
    restart_count: int | None = None
    name: str | None = None
    """What users of its framework call it: ``actor Trainer 'first'`` of Ray."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerInfo:
    """One timer as it stood when the event was made."""

    scope_id: str
    expiration_time: float
    """Wall-clock seconds since the epoch, as the client sent it: for people and for torch."""
    after_seconds: float
    """The duration the worker asked for."""
    signal: int
    thread: int | None = None
    """Native id of the thread that acquired it; None from torch's clients."""
    traceparent: str | None = None
    """W3C Trace Context of the worker's span, when the worker sent one."""
    span_id: str | None = None
    """The id that the worker reserved for the span of this scope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events share."""

    name: ClassVar[str]
    default_level: ClassVar[str]

    timestamp: float
    """Wall clock, seconds since the epoch."""
    run_id: str = ""

    @property
    def level(self) -> str:
        """``debug``, ``info``, ``warning`` or ``error``."""
        return self.default_level


@dataclass(frozen=True, slots=True, kw_only=True)
class _AboutWorker(Event):
    worker: WorkerInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class _AboutTimer(_AboutWorker):
    timer: TimerInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class _AboutElapsed(_AboutTimer):
    elapsed_seconds: float
    """Since the countdown began; NaN where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _AboutReap(_AboutElapsed):
    signal: int
    """The first one that was sent; 0 where that is not known."""
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogStarted(Event):
    """The server listens."""

    name = "watchdog started"
    default_level = "info"

    address: str = ""
    max_interval_seconds: float = 0.0
    socket: str | None = None
    """Path of the Unix socket, when workers may send there as well."""
    url: str | None = None
    """Where people see what it watches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogStopped(Event):
    """The server no longer listens; ``timers`` were still open and are watched by nobody."""

    name = "watchdog stopped"
    default_level = "info"

    timers: tuple[tuple[WorkerInfo, TimerInfo, float], ...] = ()
    """Each open timer with its worker and the seconds since its block began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerAcquired(_AboutTimer):
    """A worker entered a scope. Emitted only for observers that set ``wants_requests``."""

    name = "timer acquired"
    default_level = "debug"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerReleased(_AboutElapsed):
    """A worker left a scope. Emitted only for observers that set ``wants_requests``.

    ``elapsed_seconds`` are counted from the moment at which the block was entered.
    """

    name = "timer released"
    default_level = "debug"

    error: str | None = None
    """Type name of the exception that left the block, when the client sent it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerOverran(_AboutElapsed):
    """A block takes longer than its worker expected (``warn_after``), and is not yet expired."""

    name = "timer warning"
    default_level = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerExpired(_AboutElapsed):
    """A deadline passed: the worker is about to be reaped (or, with signal <= 0, observed)."""

    name = "timer expired"
    default_level = "warning"

    lateness_seconds: float
    """From the deadline to the moment the server noticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackDumped(_AboutWorker):
    """What the worker was doing when its timer expired, or why that is not known."""

    name = "stack dumped"
    default_level = "warning"

    timer: TimerInfo | None
    """None for a worker that was sampled because another one expired, and holds no timer."""
    elapsed_seconds: float
    dump: StackDump


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerKilled(_AboutReap):
    """The worker is gone: after our signal, or on its own just before (``outcome`` says)."""

    name = "kill worker process"
    default_level = "error"

    timers: tuple[tuple[TimerInfo, float], ...] = ()
    """Every timer it held, ``timer`` included, each with the seconds since its block began."""
    descendants: tuple[int, ...] = ()
    """Pids of its process tree that were killed with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReapFailed(_AboutReap):
    """The worker is still there; the timer stays registered and the reap is retried."""

    name = "reap failed"
    default_level = "error"

    attempt: int
    retry_in_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerExited(_AboutWorker):
    """A worker ended by itself. A warning when it did so inside one of its scopes."""

    name = "worker exited"
    default_level = "info"

    timers: tuple[tuple[TimerInfo, float], ...] = ()
    """The timers it still held, each with the seconds since its block began."""
    exit_code: int | None = None
    """What it exited with; None when a signal ended it, or when the kernel does not say."""
    exit_signal: int | None = None
    """The signal that ended it, sent by somebody else than this server."""

    @property
    def level(self) -> str:
        """``warning`` when the worker died inside a scope, else ``info``.

        Who ended well was not in the middle of what only an automatic timer, say, observed.
        """
        ended_well = self.exit_code == 0 and all(timer.signal <= 0 for timer, _ in self.timers)
        return "warning" if self.timers and not ended_well else self.default_level


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRejected(Event):
    """A request was refused. Emitted at most once a second for each reason."""

    name = "request rejected"
    default_level = "warning"

    reason: str
    """A short, fixed word: the value of the ``reason`` label in metrics."""
    detail: str = ""
    """What was wrong, for people, with at most the first 200 characters of the request."""
    worker_pid: int | str | None = None
    suppressed: int = 0
    """How many rejections for the same reason were not logged since the last that was."""


class Observer(Protocol):
    """Receives the events of a server, which is given one by constructor.

    The server calls it from its own threads, before a kill among others: an implementation must
    not block (queue the event, count what does not fit). Whatever it raises is swallowed.
    """

    @property
    def wants_requests(self) -> bool:
        """Whether to receive every acquire and release, which costs on the hot path."""
        ...

    def emit(self, event: Event) -> None:
        """Receive one event. Must neither block nor raise."""
        ...

    def flush(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for what was emitted to be delivered; False if not."""
        ...
