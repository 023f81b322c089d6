"""How many requests one server takes, on one core, with whoever is told of them.

The bytes are those of the real client, for ten scopes; half of the requests are acquires, half
releases, so a scope costs twice as much as a request. Two figures of each server: its CPU time for
one request (in bursts, after each of which everything is flushed: nothing is dropped, everything
is paid for), and how many it takes in a second from a pipe that is always full, all its threads
on one core. What a sink is not given then, because it is slower than that, is a row of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import tempfile
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .apart import running
from .hosts import HOSTS, LOGS, SPANS, TORCH_SERVER, Mark, host
from .sending import send
from .table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from .effort import Effort

__all__ = ["PARSE", "dropped", "per_cpu_second", "rows", "sustained"]

PARSE = "json.loads of each line, nothing else"
_REQUESTS = 4000


def per_cpu_second(name: str) -> str:
    """What the row of a server's requests for one second of CPU time is called."""
    return f"requests per CPU second: {name}"


def sustained(name: str) -> str:
    """What the row of a server with a full pipe is called."""
    return f"requests/s from a full pipe: {name}"


def dropped(name: str) -> str:
    """What the row is called that says how much of that its sinks were not told of."""
    return f"... of which not told to the sink: {name}"


class _Served(NamedTuple):
    """A server and what was found of it."""

    connection: Connection
    path: str
    cpu: list[float]
    rates: list[float]
    lost: list[float]

    def mark(self, requests: int = 0) -> Mark:
        """Ask it how it stands, once it has taken so many."""
        self.connection.send(requests)
        mark: Mark = self.connection.recv()
        return mark


def rows(effort: Effort) -> Iterator[Row]:
    """Measure; torch's rows come when torch is installed."""
    parse, served = _measure(effort)
    yield Row(PARSE, parse)
    for name, found in served.items():
        yield Row(name, found.cpu, base=PARSE)
    yield Row(per_cpu_second(PARSE), [1 / cpu for cpu in parse], "1/s")
    for name, found in served.items():
        rates = [1 / cpu for cpu in found.cpu]
        yield Row(per_cpu_second(name), rates, "1/s", per_cpu_second(PARSE))
    for name, found in served.items():
        yield Row(sustained(name), found.rates, "1/s", per_cpu_second(PARSE))
        if name in (LOGS, SPANS):
            yield Row(dropped(name), found.lost, "%")


def _measure(effort: Effort) -> tuple[list[float], dict[str, _Served]]:
    cores = sorted(os.sched_getaffinity(0))
    parse: list[float] = []
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        served = {}
        for number, name in enumerate(_names(effort)):
            path = f"{directory}/{number}"
            connection = stack.enter_context(running(host, name, path, cores[0]))
            served[name] = _Served(connection, path, [], [], [])
        for each in served.values():
            each.connection.recv()
        requests = effort.of(_REQUESTS, 400)
        sender = stack.enter_context(running(send, requests, cores[-1]))
        lines = sender.recv().splitlines()
        for number in range(effort.of(20, 2) + 1):
            cpu = _parse(lines)
            if number:
                parse.append(cpu)
            for name in random.sample(list(served), len(served)):
                _burst(served[name], sender, requests, counts=number > 0)
                # A few are enough: each is a hundred times as many requests as a burst.
                if 0 < number <= effort.of(5, 1):
                    _flood(served[name], sender, requests, effort.of(0.5, 0.05))
    return parse, served


def _names(effort: Effort) -> list[str]:
    needs = {SPANS: "opentelemetry.sdk", TORCH_SERVER: "torch"}
    return [
        name
        for name in HOSTS
        if (effort.torch or name != TORCH_SERVER)
        and (name not in needs or importlib.util.find_spec(needs[name]))
    ]


def _parse(lines: list[bytes]) -> float:
    started = time.thread_time()
    for line in lines:
        json.loads(line)
    return (time.thread_time() - started) / len(lines)


def _burst(served: _Served, sender: Any, requests: int, *, counts: bool) -> None:
    before = served.mark()
    sender.send((served.path, 0.0))
    sender.recv()
    after = served.mark(before.requests + requests)
    if after.dropped != before.dropped:
        raise RuntimeError(f"{after.dropped - before.dropped} events of a burst were dropped")
    if counts:
        served.cpu.append((after.cpu - before.cpu) / requests)


def _flood(served: _Served, sender: Any, requests: int, seconds: float) -> None:
    before = served.mark()
    sender.send((served.path, seconds))
    sent = sender.recv() * requests
    after = served.mark()
    taken = after.requests - before.requests
    served.rates.append(taken / (after.time - before.time))
    final = served.mark(before.requests + sent)
    served.lost.append((final.dropped - before.dropped) / sent)
