"""From the samples of a job that shows no progress: whether anybody is stuck, or nothing is to do.

Decision: somebody is stuck only where what is waited for is known and has to come. Who waits for
the world outside to begin something (an event loop, a server, a terminal) is idle, and so is a
pool without work. A lone process that sleeps, or waits to be notified, may do so on purpose; of a
rank, or of a process that its launcher waits for, the others are kept waiting.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from observability.samples.frames import is_own, library_path
from observability.samples.reading import Condition, Reading
from observability.samples.types import Pace
from observability.samples.waits import Wait
from observability.samples.worker import read

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from observability.samples.types import WorkerView

_SURE = frozenset(
    {
        Wait.COLLECTIVE,
        Wait.POINT_TO_POINT,
        Wait.NETWORK,
        Wait.PIPE,
        Wait.STORAGE,
        Wait.DEVICE,
        Wait.ASKING,
        Wait.GIL,
    }
)
"""What is waited for is known, and does not come by itself."""
_OUTSIDE = frozenset({Wait.EVENT_LOOP, Wait.SIGNAL})
_SERVING = ("socketserver.py", "http/server.py", "wsgiref/", "xmlrpc/server.py")
_BROKEN = frozenset({Condition.STOPPED, Condition.TRACED, Condition.UNINTERRUPTIBLE})


class Finding(enum.Enum):
    """What the samples of a job show."""

    MOVES = enum.auto()
    IDLE = enum.auto()
    """There is nothing to do, or nobody knows."""
    STUCK = enum.auto()


def judge(views: Sequence[WorkerView], *, awaited: bool, at_input: Collection[int] = ()) -> Finding:
    """Find out whether a job that shows no progress is stuck.

    :param views: its workers.
    :param awaited: whether a process that started them waits for their end or their results.
    :param at_input: pids that read their standard input.
    """
    read_ones = [(view, read(view)) for view in views if view.samples]
    if any(_moves(reading) for _, reading in read_ones):
        return Finding.MOVES
    if read_ones and all(reading.condition is Condition.STOPPED for _, reading in read_ones):
        return Finding.IDLE  # somebody has stopped the whole job
    ranked = any(view.worker.rank is not None for view in views)
    stuck: list[Reading] = []
    for view, reading in read_ones:
        idle = view.worker.pid in at_input or _is_idle(reading, ranked=ranked)
        if idle and view.worker.rank is not None:
            return Finding.IDLE  # the others wait for what it waits for
        if not idle and _is_stuck(reading, kept=ranked or awaited):
            stuck.append(reading)
    if not stuck:
        return Finding.IDLE
    if not awaited and all(_sleeps(reading) for reading in stuck):
        return Finding.IDLE  # nobody waits for them, and a sleep ends by itself
    return Finding.STUCK


def _moves(reading: Reading) -> bool:
    inner = reading.child_reading or reading
    if reading.moves or inner.moves:
        return True
    runs = inner.condition is Condition.RUNNING
    # Who spins in its own code may be at work for hours: a compiler, a solver.
    return runs and inner.reason.wait in (Wait.COMPUTE, Wait.UNKNOWN)


def _is_idle(reading: Reading, *, ranked: bool) -> bool:
    inner = reading.child_reading or reading
    if inner.condition in _BROKEN or inner.condition is Condition.BLIND:
        return inner.condition is Condition.BLIND
    wait = inner.reason.wait
    innermost = inner.frames[: inner.reason.machinery + 2]
    if wait in _OUTSIDE or any(_serves(frame.file, frame.function) for frame in innermost):
        return True
    # Whose turn it is to put something into a queue, nobody knows but the job.
    return wait is Wait.QUEUE and not (ranked and any(is_own(frame) for frame in innermost))


def _sleeps(reading: Reading) -> bool:
    """Whether it sleeps, and nobody is known to wait for that."""
    return (
        reading.child is None
        and reading.condition is Condition.WAITING
        and reading.reason.wait is Wait.SLEEP
    )


def _serves(file: str, function: str) -> bool:
    path = library_path(file) or ""
    name = function.rpartition(".")[2]
    if path.startswith(_SERVING):
        return name in ("serve_forever", "handle_request")
    return path == "socket.py" and name == "accept"


def _is_stuck(reading: Reading, *, kept: bool) -> bool:
    inner = reading.child_reading or reading
    if inner.condition in _BROKEN:
        return True
    if inner.condition not in (Condition.WAITING, Condition.RUNNING):
        return False
    if inner.pace is Pace.REPEATING and inner.reason.wait is not Wait.ASKING:
        return False
    return kept or reading.child is not None or inner.reason.wait in _SURE
