"""Each target notices what it is there to notice: here, something is broken on purpose."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from fuzz import socket_packets, stack_output, waiting
from fuzz.target import load
from observability.http import app as http_app
from observability.report.command import report
from support.waiting import eventually
from timers.stacks._parsing import Failure
from timers.transport.seqpacket import SocketSource
from timers.transport.wire import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LINE = b'{"version": 1, "pid": 1, "scope_id": "x", "expiration_time": -1, "signal": 0}\n'


def twice(patch: pytest.MonkeyPatch) -> None:
    feed = Decoder.feed

    def fed_twice(self: Decoder, data: bytes) -> Any:
        messages, rejections = feed(self, data)
        return messages * 2, rejections

    patch.setattr(Decoder, "feed", fed_twice)


LEAKED: list[int] = []


def leaking(patch: pytest.MonkeyPatch) -> None:
    forget = SocketSource._forget

    def forget_and_leak(self: SocketSource, peer: Any) -> None:
        # More than what an earlier test may have left for the garbage collector to close meanwhile.
        LEAKED.extend(os.dup(peer.connection.fileno()) for _ in range(50))
        forget(self, peer)

    patch.setattr(SocketSource, "_forget", forget_and_leak)


def failing_page(patch: pytest.MonkeyPatch) -> None:
    def page() -> None:
        raise KeyError("no page")

    patch.setattr(http_app, "page", page)


def failing_report(patch: pytest.MonkeyPatch) -> None:
    def callback(**_options: object) -> None:
        raise KeyError("no report")

    patch.setattr(report, "callback", callback)


def escaping_report(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(report, "callback", lambda **_options: print("\x1b[2J"))


def two_lines(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stack_output, "explain", lambda *_arguments: Failure("two\nlines"))


BROKEN: list[tuple[str, bytes, Callable[[pytest.MonkeyPatch], None]]] = [
    ("pipe", b"\x07" + LINE, twice),
    ("socket", b"\x00" + LINE, twice),
    ("socket", b"\x03" + LINE, leaking),
    ("http", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", failing_page),
    ("report", b"\x00{}", failing_report),
    ("report", b"\x00{}", escaping_report),
    ("stacks", b"x", two_lines),
]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while LEAKED:
        os.close(LEAKED.pop())


@pytest.mark.parametrize(
    ("name", "data", "breaks"), BROKEN, ids=[f"{name}-{how.__name__}" for name, _, how in BROKEN]
)
def test_what_is_broken_is_noticed(
    name: str,
    data: bytes,
    breaks: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What never comes is waited for, too.
    monkeypatch.setattr(
        waiting, "eventually", lambda probe, what: eventually(probe, what, timeout=0.5)
    )
    with load(name).open() as try_one:
        try_one(data)
        with monkeypatch.context() as patch:
            breaks(patch)
            with pytest.raises((AssertionError, KeyError)):
                try_one(data)


def test_a_packet_is_accounted_for_by_the_line() -> None:
    assert socket_packets.TARGET is load("socket")
    with load("socket").open() as try_one:
        try_one(b"\x00" + LINE * 3 + b"\xff\x00" + b"x" * 5000)
