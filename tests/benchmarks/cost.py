"""What one ``with expires(...)`` costs the worker, beside its peers and the bare system calls."""

from __future__ import annotations

import faulthandler
import fcntl
import importlib.util
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import timers

from .serving import serving
from .table import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROUNDS = 40
_BURST = 500
_OFTEN = ", max_interval=0.05"
_SOCKET_BURST = 200
"""Fewer fit: each packet is kept by itself."""
_PIPE_BYTES = 1 << 20


def _samples(block: Callable[[], None], burst: int = _BURST, pause: float = 0.01) -> list[float]:
    """Seconds for one call, by bursts that fit into the pipe; the server drains in the pauses."""
    samples = []
    for _ in range(_ROUNDS):
        samples.append(_one_burst(block, burst))
        time.sleep(pause)
    return samples


def _at_depth(depth: int, call: Callable[[], list[float]]) -> list[float]:
    return call() if depth == 0 else _at_depth(depth - 1, call)


def _floor() -> list[float]:
    # The same bytes as our client's acquire and release.
    acquire = b"x" * 196 + b"\n"
    release = b"x" * 124 + b"\n"
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def writes() -> None:
        os.write(writer, acquire)
        os.write(writer, release)

    samples = []
    for _ in range(_ROUNDS):
        samples.append(_one_burst(writes, _BURST))
        os.read(reader, _PIPE_BYTES)
    os.close(reader)
    os.close(writer)
    return samples


def _socket_floor() -> list[float]:
    acquire = b"x" * 196 + b"\n"
    release = b"x" * 124 + b"\n"
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIPE_BYTES)

    def sends() -> None:
        writer.send(acquire)
        writer.send(release)

    samples = []
    for _ in range(_ROUNDS):
        samples.append(_one_burst(sends, _SOCKET_BURST))
        for _ in range(2 * _SOCKET_BURST):
            reader.recv(4096)
    reader.close()
    writer.close()
    return samples


def _one_burst(block: Callable[[], None], burst: int) -> float:
    started = time.perf_counter()
    for _ in range(burst):
        block()
    return (time.perf_counter() - started) / burst


def _ours(path: str) -> Iterator[Row]:
    client = timers.FileTimerClient(path)

    def named() -> None:
        with timers.expires(60, "all_reduce", client=client):
            pass

    def unnamed() -> None:
        with timers.expires(60, client=client):
            pass

    floor = "two bare writes of the same bytes"
    yield Row("expires, file pair, named", _samples(named), base=floor)
    yield Row("expires, file pair, default scope", _samples(unnamed), base=floor)
    yield Row(
        "expires, file pair, default scope, depth 200",
        _at_depth(200, lambda: _samples(unnamed)),
        base=floor,
    )
    if importlib.util.find_spec("opentelemetry.sdk"):
        trace: Any = importlib.import_module("opentelemetry.trace")
        sdk: Any = importlib.import_module("opentelemetry.sdk.trace")
        tracer = sdk.TracerProvider().get_tracer("benchmark")
        with trace.use_span(tracer.start_span("around")):
            yield Row("expires, file pair, named, traced", _samples(named), base=floor)


def _socket(path: str) -> Iterator[Row]:
    client = timers.SocketTimerClient(path)

    def named() -> None:
        with timers.expires(60, "all_reduce", client=client):
            pass

    floor = "two bare sends of the same bytes"
    yield Row("expires, socket pair, named", _samples(named, _SOCKET_BURST, 0.02), base=floor)


def _torch(path: str) -> Iterator[Row]:
    timer: Any = importlib.import_module("torch.distributed.elastic.timer")
    client = timer.FileTimerClient(path)

    def named() -> None:
        with timer.expires(60, "all_reduce", client=client):
            pass

    def unnamed() -> None:
        with timer.expires(60, client=client):
            pass

    floor = "two bare writes of the same bytes"
    # Its pipe takes about 700 requests before the client raises.
    yield Row("torch expires, file pair, named", _samples(named, 50, 0.05), base=floor)
    yield Row("torch expires, file pair, default scope", _samples(unnamed, 20, 0.05), base=floor)
    yield Row(
        "torch expires, file pair, default scope, depth 200",
        _at_depth(200, lambda: _samples(unnamed, burst=20, pause=0.05)),
        base=floor,
    )


def _in_process() -> Iterator[Row]:
    floor = "two bare writes of the same bytes"

    def dump_later() -> None:
        faulthandler.dump_traceback_later(60)
        faulthandler.cancel_dump_traceback_later()

    def thread_timer() -> None:
        timer = threading.Timer(60, print)
        timer.start()
        timer.cancel()

    yield Row("faulthandler.dump_traceback_later + cancel", _samples(dump_later, 50), base=floor)
    yield Row("threading.Timer start + cancel", _samples(thread_timer, 50), base=floor)


def rows() -> Iterator[Row]:
    """Measure; torch's rows come when torch is installed."""
    yield Row("two bare writes of the same bytes", _floor())
    with serving("timers", _OFTEN) as path:
        yield from _ours(path)
    yield Row("two bare sends of the same bytes", _socket_floor())
    with serving("timers", _OFTEN, "SocketTimerServer") as path:
        yield from _socket(path)
    if importlib.util.find_spec("torch"):
        with serving("torch.distributed.elastic.timer", _OFTEN) as path:
            yield from _torch(path)
    yield from _in_process()
