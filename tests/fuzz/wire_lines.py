"""The decoder of the wire: any bytes, cut anywhere, after anything.

Inputs are what lies in a pipe. Each is read in one piece, in pieces, line by line, and by a decoder
that has read the same lines before, forwards and backwards: all must agree with the plain reader
in :mod:`fuzz.reference`.
"""

from __future__ import annotations

import contextlib
import gc
import random
from typing import TYPE_CHECKING

from timers.server.statistics import REJECTION_REASONS
from timers.transport.wire import MAX_LINE_BYTES, Decoder, Message, Rejection

from .reference import as_torch, nesting, of_line
from .target import Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .target import Try

__all__ = ["TARGET", "check_bytes", "check_line", "cut", "read"]

_DEEP = 200
"""From here on it depends on the depth of the caller's stack whether JSON is nested too deep."""
_BEYOND_TORCH = {"wrong_type", "out_of_range", "unsupported_version", "too_long"}
"""Why we refuse what torch takes; README, "Limits" and ``timers/transport/wire.py``."""
_DETAIL_CHARACTERS = 1500
_SHORT = 600
"""Bytes up to which the input is also read one by one."""

Outcome = tuple[list[Message], list[str]]


def read(decoder: Decoder, pieces: Iterable[bytes]) -> Outcome:
    """What ``decoder`` makes of ``pieces``: messages and reasons, each in their order."""
    messages: list[Message] = []
    rejections: list[Rejection] = []
    for piece in pieces:
        found, refused = decoder.feed(piece)
        messages += found
        rejections += refused
    for rejection in rejections:
        assert rejection.reason in REJECTION_REASONS
        assert rejection.detail.isprintable(), rejection
        assert len(rejection.detail) < _DETAIL_CHARACTERS, rejection
    for message in messages:
        message.scope_id.encode()
    return messages, [rejection.reason for rejection in rejections]


def cut(data: bytes, places: Iterable[int]) -> Iterator[bytes]:
    """``data`` in pieces; ``places`` are taken modulo its length."""
    ends = sorted({place % (len(data) + 1) for place in places})
    for start, end in zip([0, *ends], [*ends, len(data)], strict=True):
        yield data[start:end]


Known = dict[bytes, tuple[Message | None, str | None]]


def _expected(lines: Iterable[bytes], known: Known) -> Outcome:
    found = [known[line] for line in lines]
    return (
        [message for message, _ in found if message is not None],
        [reason for _, reason in found if reason is not None],
    )


def _same(found: Outcome, expected: Outcome) -> None:
    assert found == expected
    # 1 == 1.0 == True: what a message holds has the type, too, that it had on the wire.
    assert [[type(fact) for fact in message] for message in found[0]] == [
        [type(fact) for fact in message] for message in expected[0]
    ]


def check_line(line: bytes) -> None:
    """Whatever torch's reader takes we take, with the same facts, but for what is documented."""
    facts = as_torch(line)
    if facts is None or b"\r" in line or nesting(line) > _DEEP:
        return
    message, reason = of_line(line)
    if reason is None:
        assert message is not None
        pid, scope_id, *numbers = message[:4]
        assert [pid, *numbers] == [facts[0], *facts[2:]]
        assert scope_id == facts[1].encode("utf-8", "backslashreplace").decode()
    elif reason == "not_json":
        assert b"NaN" in line or b"Infinity" in line, line
    else:
        assert reason in _BEYOND_TORCH, (reason, line)


def check_bytes(data: bytes) -> None:
    """Everything that holds for any bytes."""
    *lines, unfinished = data.split(b"\n")
    if nesting(data) > _DEEP and any(nesting(line) > _DEEP for line in lines):
        with _no_collection():
            read(Decoder(), [data])  # whatever it is, it is no exception
        return
    known = {line: of_line(line) for line in lines}
    expected = _expected(lines, known)
    decoder = Decoder()
    _same(read(decoder, [data]), expected)
    assert bool(decoder.close()) == bool(unfinished)
    assert decoder.close() == []
    places = random.Random(data)
    cuts = [places.randrange(len(data) + 1) for _ in range(places.randrange(20))]
    _same(read(Decoder(), cut(data, cuts)), expected)
    if len(data) <= _SHORT:
        _same(read(Decoder(), cut(data, range(len(data)))), expected)
    _remembers_nothing(lines, known)
    for line in lines:
        check_line(line)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    # Collected in the deepest of calls, garbage would have callbacks of others run there, and fail.
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _remembers_nothing(lines: list[bytes], known: Known) -> None:
    """What a decoder has read before makes no difference to what it reads."""
    again = Decoder()
    for order in (lines, lines[::-1], lines, lines[::2] + lines[1::2]):
        _same(read(again, [b"".join(line + b"\n" for line in order)]), _expected(order, known))
    for line in lines:
        _same(read(again, [line + b"\n"]), _expected([line], known))


@contextlib.contextmanager
def _open() -> Iterator[Try]:
    yield check_bytes


TARGET = Target(
    "wire decoder",
    _open,
    words=("wire",),
    longest=2 * MAX_LINE_BYTES,
)
