"""What our client writes, read by the reader of PyTorch's server; what our requests look like."""

from __future__ import annotations

import io
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import timers
from support.torch import require_torch, torch_module
from timers.transport.wire import MAX_LINE_BYTES, Decoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

require_torch()

SCOPES = [
    "all_reduce",
    "",
    'quotes " and \\ and \n',
    "grün 日本 🔥",
    "\udcff",  # of a file name that is not UTF-8
    "/home/user/train.py#42",
    "x" * 3000,
]

numbers = st.integers() | st.floats()
requests = st.tuples(st.integers(), st.text(), numbers, st.integers())


class Pipe:
    """A named pipe with a reader that only collects."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def lines(self) -> list[bytes]:
        return os.read(self.fd, 1 << 20).splitlines(keepends=True)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    found = Pipe(tmp_path / "pipe")
    yield found
    os.close(found.fd)


@pytest.fixture
def torch_server(tmp_path: Path) -> Any:
    """PyTorch's server, not started: only its reader is used."""
    server = torch_module().FileTimerServer(str(tmp_path / "of-torch"), "run", 3600)
    server._run_once = True  # end at the end of the file
    return server


def send_one_of_each(client: timers.FileTimerClient, scope: str) -> None:
    """Every kind of line there is."""
    client.acquire(scope, 1795141628.03)
    client.acquire(scope, 1795141628)
    client.release(scope)
    client._send_request(timers.FileTimerRequest(4711, scope, 1.5, 9))
    with timers.expires(60, scope, client), timers.expires(0, scope, client):
        pass
    with pytest.raises(ZeroDivisionError), timers.expires(60, scope, client):
        _ = 1 / 0
    thread = threading.Thread(target=client.acquire, args=(scope, 5.0))
    thread.start()
    thread.join()


@pytest.mark.parametrize("signal", [9, 15, 0, -1])
def test_every_line_is_read_by_torch_as_by_us(
    pipe: Pipe, torch_server: Any, tmp_path: Path, signal: int
) -> None:
    client = timers.FileTimerClient(tmp_path / "pipe", signal=signal)
    lines = []
    for scope in SCOPES:
        send_one_of_each(client, scope)
        lines.extend(pipe.lines())
    assert len(lines) == len(SCOPES) * 11
    assert all(line.isascii() and len(line) <= MAX_LINE_BYTES for line in lines)

    read = torch_server._get_requests(io.StringIO(b"".join(lines).decode()), 3600)
    messages, rejections = Decoder().feed(b"".join(lines))
    assert rejections == []
    assert {request.scope_id for request in read} == set(SCOPES)
    assert {request.worker_pid for request in read} == {os.getpid(), 4711}
    assert [
        (request.worker_pid, printable(request.scope_id), request.expiration_time, request.signal)
        for request in read
    ] == [
        (message.pid, message.scope_id, message.expiration_time, message.signal)
        for message in messages
    ]


def printable(scope: str) -> str:
    """A lone surrogate can be read but not written; our server shows its number instead."""
    return scope.encode("utf-8", "backslashreplace").decode("utf-8")


@settings(deadline=None)
@given(requests)
def test_to_json_is_torchs_to_the_byte(request: tuple[int, str, float, int]) -> None:
    ours, theirs = (library.FileTimerRequest(*request) for library in (timers, torch_module()))
    assert ours.to_json() == theirs.to_json()
    assert (ours.version, ours.worker_pid) == (theirs.version, theirs.worker_pid)


def test_our_server_reads_every_line_of_torchs_client(pipe: Pipe, tmp_path: Path) -> None:
    client = torch_module().FileTimerClient(str(tmp_path / "pipe"))
    for scope in SCOPES:
        client.acquire(scope, 1795141628.03)
        client.release(scope)
    messages, rejections = Decoder().feed(b"".join(pipe.lines()))
    assert rejections == []
    assert [message[:4] for message in messages] == [
        message
        for scope in map(printable, SCOPES)
        for message in (
            (os.getpid(), scope, 1795141628.03, 9),
            (os.getpid(), scope, -1, 0),
        )
    ]


def variants(library: Any) -> list[Any]:
    """Requests that differ in one thing each, and things that are no requests."""
    timer, file = library.TimerRequest, library.FileTimerRequest
    newer = file(1, "a", 2.0, 9)
    newer.version = 2
    return [
        timer(1, "a", 2.0),
        timer(1, "a", 2),
        timer("1", "a", 2.0),
        timer(1, "b", 2.0),
        timer(1, "a", -1),
        file(1, "a", 2.0),
        file(1, "a", 2.0, 0),
        file(1, "a", 2.0, signal=9),
        file(worker_pid=2, scope_id="a", expiration_time=2.0, signal=9),
        newer,
        None,
        (1, "a", 2.0),
    ]


def test_equality_is_torchs() -> None:
    ours, theirs = (
        [
            [(left == right, left != right) for right in variants(library)]
            for left in variants(library)
        ]
        for library in (timers, torch_module())
    )
    assert ours == theirs
    assert sum(equal for row in ours for equal, _ in row) > len(ours)  # more than each with itself


@pytest.mark.parametrize("name", ["TimerRequest", "FileTimerRequest"])
def test_requests_are_as_unhashable_as_torchs(name: str) -> None:
    for library in (timers, torch_module()):
        with pytest.raises(TypeError, match="unhashable"):
            hash(getattr(library, name)(1, "a", 2.0))
