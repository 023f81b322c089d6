"""What one ``with expires(...)`` costs the worker, beside its peers and the bare system calls.

The worker is a process of its own, beside the servers. Its CPU time includes its threads (the
feeder of an ``mp.Queue``), until everything has been sent.
"""

from __future__ import annotations

import contextlib
import importlib.util
from typing import TYPE_CHECKING, Any

from . import ours, peers
from .apart import running
from .bursts import Contender, Cost, take_turns
from .serving import TORCH, queue_serving, serving
from .table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from .effort import Effort

__all__ = ["CPU", "rows"]

CPU = "CPU: "
"""What the names of the rows of CPU time begin with."""


def rows(effort: Effort) -> Iterator[Row]:
    """Measure; torch's rows come when torch is installed."""
    costs = _measure(effort, torch=effort.torch and bool(importlib.util.find_spec("torch")))
    for name, cost in costs.items():
        yield Row(name, cost.wall, base=_base(name))
    for name, cost in costs.items():
        if not cost.cpu:
            continue
        yield Row(CPU + name, cost.cpu, base=CPU + ours.FLOOR)


def _base(name: str) -> str:
    for prefix in (ours.ALONE, ours.BUSY, ours.ASLEEP):
        if name.startswith(prefix):
            return prefix + ours.FLOOR
    of_socket = ("Socket", ours.SOCKET_FLOOR, ours.STOPPED)
    return ours.SOCKET_FLOOR if name.startswith(of_socket) else ours.FLOOR


def _measure(effort: Effort, *, torch: bool) -> dict[str, Cost]:
    with contextlib.ExitStack() as stack:
        paths = {
            "file": stack.enter_context(serving("timers")),
            "socket": stack.enter_context(serving("timers", server="SocketTimerServer")),
        }
        queues = {
            "queue": stack.enter_context(queue_serving("timers")),
            "simple queue": stack.enter_context(queue_serving("timers", "SimpleQueue")),
        }
        if torch:
            # At its own max_interval it would read once in a second, or later.
            paths["torch file"] = stack.enter_context(serving(TORCH, ", max_interval=0.02"))
            queues["torch queue"] = stack.enter_context(queue_serving(TORCH))
        connection = stack.enter_context(
            running(_work, paths, queues, effort.of(full=40, quick=2), effort.of(1.0, 0.1))
        )
        try:
            found: dict[str, Cost] = connection.recv()
        except EOFError:
            raise RuntimeError("the measured worker died; its error is above") from None
        return found


def _work(
    connection: Connection,
    paths: dict[str, str],
    queues: dict[str, Any],
    rounds: int,
    share: float,
) -> None:
    """What the measured worker does."""
    contenders = [
        contender._replace(burst=max(2, int(contender.burst * share)))
        for contender in _contenders(paths, queues)
    ]
    # Apart and last: it loads OpenTelemetry, whose presence the others would pay for.
    traced = [contender for contender in contenders if contender.name == ours.TRACED]
    others = [contender for contender in contenders if contender.name != ours.TRACED]
    costs = take_turns(others, rounds)
    connection.send(costs | take_turns(traced, rounds) if traced else costs)
    connection.recv()


def _contenders(paths: dict[str, str], queues: dict[str, Any]) -> Iterator[Contender]:
    yield from ours.file_pair(paths["file"])
    yield from ours.socket_pair(paths["socket"])
    yield from ours.queue_pair(queues["queue"])
    yield from ours.queue_pair(queues["simple queue"])
    if "torch file" in paths:
        yield from peers.torch_file(paths["torch file"])
        yield from peers.torch_local(queues["torch queue"])
    yield from peers.in_process()
