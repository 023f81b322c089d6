"""What one call of a block costs: wall time, and CPU time of the whole process, by bursts.

Everything that is compared takes turns, in a new order each round, so that whatever else happens
on the machine happens to all of them. Between bursts the servers read what was sent, so that no
burst meets a full pipe or the work of another. A first round warms up and is not counted.
"""

from __future__ import annotations

import _thread
import gc
import random
import statistics
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Contender", "Cost", "take_turns"]

SHALLOW = 5
DEEP = 200


class Contender(NamedTuple):
    """One thing that is measured."""

    name: str
    make: Callable[[], Callable[[], object]]
    """Gives the block to be called; called before each burst."""
    burst: int = 300
    settle: Callable[[], None] = lambda: time.sleep(0.002)
    """Waits, after a burst, until all that was sent has been taken."""
    pause: float = 0.0
    """Seconds before each call, in which the servers go to sleep: waking them is a part of it."""
    rest: Callable[[float], object] = time.sleep
    """What this process does meanwhile."""
    depth: int = SHALLOW
    """How many frames are on the stack of the block, its own included."""


class Cost(NamedTuple):
    """Samples, in seconds for one call."""

    wall: list[float]
    cpu: list[float]
    """Of all threads of the process, until everything has been sent. None with pauses."""


def take_turns(contenders: Sequence[Contender], rounds: int) -> dict[str, Cost]:
    """Measure all in this process; by name."""
    costs = {contender.name: Cost([], []) for contender in contenders}
    gc.collect()
    gc.freeze()  # what was imported is not looked through at each collection
    order = list(contenders)
    for number in range(rounds + 1):
        random.shuffle(order)
        for contender in order:
            wall, cpu = _on_own_stack(contender)
            if number:
                costs[contender.name].wall.append(wall)
                if not contender.pause:
                    costs[contender.name].cpu.append(cpu)
    return costs


def _on_own_stack(contender: Contender) -> tuple[float, float]:
    """Run one burst on a thread whose stack begins with the burst itself."""
    found: list[tuple[float, float]] = []
    errors: list[BaseException] = []
    done = _thread.allocate_lock()
    done.acquire()

    def run() -> None:
        try:
            _descend(contender, found)
        except BaseException as error:  # noqa: BLE001  # raised again below
            errors.append(error)
        finally:
            done.release()

    _thread.start_new_thread(run, ())
    done.acquire()
    if errors:
        raise errors[0]
    return found[0]


def _descend(contender: Contender, found: list[tuple[float, float]]) -> None:
    depth, frame = 1, sys._getframe()
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    if depth + 2 < contender.depth:
        _descend(contender, found)
    else:
        found.append(_burst(contender))


def _burst(contender: Contender) -> tuple[float, float]:
    block, burst = contender.make(), contender.burst
    block()  # whatever a new thread costs is not the block's
    contender.settle()
    if contender.pause:
        return _one_by_one(block, contender), 0.0
    all_before = time.process_time()
    started = time.perf_counter()
    for _ in range(burst):
        block()
    wall = time.perf_counter() - started
    mine = time.thread_time()
    contender.settle()
    waiting = time.thread_time() - mine
    return wall / burst, (time.process_time() - all_before - waiting) / burst


def _one_by_one(block: Callable[[], object], contender: Contender) -> float:
    times = []
    for _ in range(contender.burst):
        contender.rest(contender.pause)
        started = time.perf_counter()
        block()
        times.append(time.perf_counter() - started)
    return statistics.median(times)  # what interrupts one of them is not the block
