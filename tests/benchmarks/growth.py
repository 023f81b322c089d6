"""What one operation costs, and one timer, when very many timers are running.

Every size has a process of its own, and they take turns. The timers are those of real processes,
decoded from the wire and taken up by the engine of our servers; request by request, as they arrive
from many workers. An expiry ends with the start of the thread that would dump and kill.
"""

from __future__ import annotations

import contextlib
import importlib.util
import random
from typing import TYPE_CHECKING

from .apart import running
from .engines import (
    ACQUIRE,
    CHURN,
    EXPIRY,
    MEMORY,
    RELEASE,
    STALL,
    our_engine,
    torch_server,
)
from .processes import waiting_processes
from .table import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .effort import Effort

    _Crowd = tuple[int, int]

__all__ = ["OPERATIONS", "REFERENCE", "largest", "memory", "rows", "title"]

OPERATIONS = (ACQUIRE, RELEASE, EXPIRY)
REFERENCE = 1_000
"""The size that the others are compared with."""
_WORKERS = 16
_MOST_WORKERS = 256
_LARGE = 10_000
"""With fewer timers, pages and pools decide how much the resident set grows."""
_UNITS = {MEMORY: "B", STALL: "ms"}


def largest(effort: Effort) -> int:
    """The largest number of timers that is measured."""
    return effort.of(1_000_000, 10_000)


def title(what: str, size: int, workers: int = _WORKERS) -> str:
    """What a row of the table is called."""
    return f"{what}, {size:,} timers of {workers} workers"


def memory(effort: Effort) -> str:
    """The row for the memory of one timer."""
    return title(MEMORY, largest(effort))


def rows(effort: Effort) -> Iterator[Row]:
    """Measure; torch's rows come when torch is installed."""
    sizes = effort.of((10, REFERENCE, 100_000, 1_000_000), (10, REFERENCE, 10_000))
    crowds = [(size, _WORKERS) for size in sizes]
    with waiting_processes(_MOST_WORKERS) as pids:
        more = [(sizes[2], 1), (sizes[2], _MOST_WORKERS)]
        yield from _rows("", _measure(our_engine, [*crowds, *more], pids, effort))
        if effort.torch and importlib.util.find_spec("torch"):
            yield from _rows("torch: ", _measure(torch_server, crowds, pids, effort))


def _measure(
    serve: Callable[..., None], crowds: list[_Crowd], pids: list[int], effort: Effort
) -> dict[str, dict[_Crowd, list[float]]]:
    """Samples by what was measured, and with how many timers and workers."""
    samples: dict[str, dict[_Crowd, list[float]]] = {}
    with contextlib.ExitStack() as stack:
        engines = {
            crowd: stack.enter_context(running(serve, crowd[0], pids[: crowd[1]]))
            for crowd in crowds
        }

        def ask(question: str, crowds: Iterable[_Crowd]) -> None:
            for crowd in crowds:
                if question:
                    engines[crowd].send(question)
                for what, value in engines[crowd].recv().items():
                    samples.setdefault(what, {}).setdefault(crowd, []).append(value)

        ask("", crowds)
        samples[MEMORY] = {
            crowd: values for crowd, values in samples[MEMORY].items() if crowd[0] >= _LARGE
        }
        for _ in range(effort.of(40, 3)):
            ask("sample", random.sample(crowds, len(crowds)))
        if serve is our_engine:
            ask(CHURN, crowds)
    return samples


def _rows(prefix: str, samples: dict[str, dict[_Crowd, list[float]]]) -> Iterator[Row]:
    for what, by_crowd in samples.items():
        for crowd, values in sorted(by_crowd.items()):
            base = None if what in _UNITS else prefix + title(what, REFERENCE)
            yield Row(prefix + title(what, *crowd), values, _UNITS.get(what, "us"), base)
