"""Ending one stuck worker: signal, confirm, escalate, by the policy of its server.

What is to be done after what is decided by :func:`choose`, :func:`escalation` and
:func:`retry_delay`, which are pure.
"""

from __future__ import annotations

import signal as signals
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from timers.bounded import HANDOVER_SECONDS
from timers.events import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from timers.linux.process import Process

    from .process_tree import ProcessTree
    from .table import Timer

    BeforeKill: TypeAlias = Callable[..., object]
    """The step before a kill, with the arguments of torch's ``log_debug_info_for_expired_timers``:
    the run id, and for each worker its expired timers as JSON. One that has a parameter ``until``
    is given the moment of time.monotonic() by which it has to be done. When it returns a dictionary
    from pid to :class:`~timers.stacks.dump.StackDump`, that becomes the ``stack dumped`` event."""

__all__ = ["KILL_TREE", "ReapPolicy", "Step", "choose", "escalation", "retry_delay", "terminate"]


KILL_TREE = ("helpers", "all", "off")
_CONFIRM_SECONDS = 1.0
"""How long after SIGKILL a process is given to end, at least."""
_SLACK_SECONDS = 1.5
"""For a machine that is busy: the bound of a whole reap is for those who give it up."""


class Step(NamedTuple):
    """The step before a kill, ready to be called with the run id and the expired timers."""

    call: Callable[[str, dict[int, list[str]]], object]
    keeps_bound: bool = False
    """Whether it returns in time by itself, whatever happens: then it needs no thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReapPolicy:
    """How a server ends a stuck worker. All times in seconds."""

    dump_timeout: float = 5.0
    """Bound on the step before the kill; the kill comes then, dump or no dump."""
    grace: float = 5.0
    """How long a worker may outlive a signal before the next, stronger step. After SIGKILL it is
    given at least a second to end."""
    flush_timeout: float = 1.0
    """Bound on getting the events that explain the kill delivered before it."""
    kill_tree: str = "helpers"
    """Which descendants of the worker are killed with it: its ``helpers`` (none that is a worker
    itself, has a rank of its own, made a session of its own or is another user's), ``all`` or, with
    ``off``, none."""
    descendants_of: int | None = None
    """When given, only descendants of this process are ever accepted as workers."""
    users: frozenset[int] = frozenset()
    """Ids of users, besides the server's own, whose processes are accepted as workers."""
    max_timers: int = 10_000
    """How many timers one worker may have open: a broken one must not fill the server's memory."""

    def __post_init__(self) -> None:
        if self.kill_tree not in KILL_TREE:
            choices = ", ".join(map(repr, KILL_TREE))
            raise ValueError(f"ReapPolicy.kill_tree is one of {choices}, got {self.kill_tree!r}")
        for name in ("dump_timeout", "grace", "flush_timeout"):
            value = getattr(self, name)
            if not 0 <= value < threading.TIMEOUT_MAX:
                raise ValueError(f"ReapPolicy.{name} must be at least 0 seconds, got {value!r}")

    @property
    def reap_timeout(self) -> float:
        """Seconds that one whole reap takes at most: explain, signal, escalate, confirm."""
        explain = self.dump_timeout + HANDOVER_SECONDS + self.flush_timeout
        waits = sum(wait for _, wait in escalation(signals.SIGTERM, self.grace))
        return explain + waits + _CONFIRM_SECONDS + _SLACK_SECONDS


def choose(timers: Sequence[Timer[Any]]) -> tuple[Timer[Any], int]:
    """Return which expired timer decides, and its signal: the first by deadline that has one.

    As in torch: when none has a signal above 0, the first timer and 0, which means observe only.
    """
    ordered = sorted(timers, key=lambda timer: timer.deadline_ns)
    for timer in ordered:
        if timer.signal > 0:
            return timer, timer.signal
    return ordered[0], 0


def escalation(signal: int, grace: float) -> list[tuple[int, float]]:
    """Return the signals to send, each with the seconds to wait for the worker's end after it."""
    # Nobody is gone the moment SIGKILL is sent: without some time every reap would look failed.
    last = (int(signals.SIGKILL), max(grace, _CONFIRM_SECONDS))
    return [last] if signal == signals.SIGKILL else [(signal, grace), last]


def retry_delay(attempt: int) -> float:
    """Return the seconds to wait after failed ``attempt`` 1, 2, 3...: 1, 2, 4, ... 60."""
    return float(min(60, 2 ** min(attempt - 1, 6)))


def terminate(
    process: Process, signal: int, *, grace: float, tree: ProcessTree | None = None
) -> tuple[Outcome, list[int]]:
    """Send ``signal`` to ``process``, see it end, and escalate to SIGKILL if it does not.

    Blocks for at most twice ``grace`` (and a second or two). Returns how it ended and, with a
    ``tree``, the pids of the descendants that were killed after it. Never raises for a process that
    is gone.
    """
    if process.exited():
        return Outcome.ALREADY_GONE, []
    try:
        outcome = _terminate(process, signal, grace, tree)
        if tree is None or outcome is Outcome.NOT_PERMITTED:
            return outcome, []
        # Those of a process that outlives SIGKILL too: it will end when nobody looks, and they may
        # be what holds it.
        return outcome, tree.kill()
    finally:
        if tree is not None:
            tree.close()


def _terminate(process: Process, signal: int, grace: float, tree: ProcessTree | None) -> Outcome:
    for sent, wait in escalation(signal, grace):
        if tree is not None:
            # Before each signal: once their parent is dead nothing says whose children they were.
            tree.collect(process)
        try:
            process.send(sent)
        except ProcessLookupError:
            # Before any signal of ours it ended by itself; after one, the signal did it.
            return Outcome.ALREADY_GONE if sent == signal else Outcome.KILLED
        except OSError:
            return Outcome.NOT_PERMITTED
        if process.exited(wait):
            return Outcome.KILLED if sent == signal else Outcome.ESCALATED
    return Outcome.STILL_ALIVE
