"""The codec of the pipe: whatever comes, however it is cut, every valid line comes through."""

from __future__ import annotations

import json
import math
import multiprocessing as mp
import multiprocessing.queues
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from timers import (
    FileTimerClient,
    FileTimerRequest,
    LocalTimerClient,
    MultiprocessingRequestQueue,
    expires,
)
from timers.errors import RequestTooLargeError
from timers.linux.procfs import start_time
from timers.server.statistics import REJECTION_REASONS
from timers.transport.fifo_reader import FifoReader
from timers.transport.mp_queue import QueueSource
from timers.transport.wire import (
    MAX_LINE_BYTES,
    Decoder,
    Message,
    Rejection,
    bounded,
    request_json,
    writable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VALID: dict[str, Any] = {
    "version": 1,
    "pid": 1870,
    "scope_id": "x",
    "expiration_time": 1795141628.03,
    "signal": 9,
}
EXTRAS: dict[str, Any] = {
    "start_time": 5,
    "thread": 6,
    "deadline_ns": 7,
    "after": 8.5,
    "warn_after": 4.25,
    "nested": True,
    "leave": True,
    "error": "ValueError",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}


def line(**changed: Any) -> bytes:
    return json.dumps({**VALID, **changed}).encode() + b"\n"


def without(key: str) -> bytes:
    return json.dumps({name: value for name, value in VALID.items() if name != key}).encode()


def decode(data: bytes) -> tuple[list[Message], list[str]]:
    messages, rejections = Decoder().feed(data)
    return messages, [rejection.reason for rejection in rejections]


def cut(data: bytes, places: Sequence[int]) -> Iterator[bytes]:
    """``data`` in pieces, cut at ``places`` (taken modulo its length)."""
    ends = sorted({place % (len(data) + 1) for place in places})
    for start, end in zip([0, *ends], [*ends, len(data)], strict=True):
        yield data[start:end]


# -- what a valid line says -----------------------------------------------------------------------


def test_the_five_keys_of_torch() -> None:
    assert decode(line()) == ([Message(1870, "x", 1795141628.03, 9)], [])
    assert decode(line(expiration_time=-1, signal=0)) == ([Message(1870, "x", -1, 0)], [])


def test_keys_that_nobody_knows_are_ignored() -> None:
    assert decode(line(color="green", nested=False)) == decode(line())


def test_every_extra() -> None:
    (message,), rejected = decode(line(**EXTRAS))
    assert rejected == []
    assert {name: getattr(message, name) for name in EXTRAS} == EXTRAS


@pytest.mark.parametrize("key", EXTRAS)
def test_each_extra_alone_with_and_without_a_version(key: str) -> None:
    for data in (line(**{key: EXTRAS[key]}), line(**{key: EXTRAS[key]}, version=1)):
        (message,), rejected = decode(data)
        assert (getattr(message, key), rejected) == (EXTRAS[key], [])
    value = {**VALID, key: EXTRAS[key]}
    del value["version"]
    (message,), _ = decode(json.dumps(value).encode() + b"\n")
    assert getattr(message, key) == EXTRAS[key]


@pytest.mark.parametrize(
    "key", ["start_time", "thread", "deadline_ns", "after", "warn_after", "error"]
)
def test_an_extra_may_be_null(key: str) -> None:
    (message,), rejected = decode(line(**{key: None}))
    assert (getattr(message, key), rejected) == (None, [])


def test_space_around_an_object_and_a_carriage_return_are_no_trouble() -> None:
    assert decode(b" \t" + line()[:-1] + b" \r\n") == decode(line())


# -- bad lines ------------------------------------------------------------------------------------

BAD = {
    b"": "empty",
    b"   ": "empty",
    b"x": "not_json",
    b"{": "not_json",
    b"{}{}": "not_json",
    b"\x00": "not_json",
    line()[:-2]: "not_json",
    line()[:-1] + b"x": "not_json",
    b"[" * 4000: "not_json",
    b'{"a":' * 800: "not_json",
    b'{"pid": NaN}': "not_json",
    line()[:-1].replace(b"1795141628.03", b"NaN"): "not_json",
    line()[:-1].replace(b"1795141628.03", b"Infinity"): "not_json",
    line()[:-1].replace(b"1795141628.03", b"-Infinity"): "not_json",
    line()[:-1].replace(b'"x"', b'"\x01"'): "not_json",
    b'{"version": 1, "scope_id": "\xff"}': "not_utf8",
    b"\xc3": "not_utf8",
    b"null": "not_an_object",
    b"3": "not_an_object",
    b"[]": "not_an_object",
    b'"text"': "not_an_object",
    b"{}": "missing_key",
    without("pid"): "missing_key",
    without("scope_id"): "missing_key",
    without("expiration_time"): "missing_key",
    without("signal"): "missing_key",
    line(version=2)[:-1]: "unsupported_version",
    line(version=None)[:-1]: "unsupported_version",
    line(version="1")[:-1]: "unsupported_version",
    line(pid=None)[:-1]: "wrong_type",
    line(pid="1870")[:-1]: "wrong_type",
    line(pid=1870.0)[:-1]: "wrong_type",
    line(pid=True)[:-1]: "wrong_type",
    line(pid=[])[:-1]: "wrong_type",
    line(scope_id=None)[:-1]: "wrong_type",
    line(scope_id=3)[:-1]: "wrong_type",
    line(expiration_time=None)[:-1]: "wrong_type",
    line(expiration_time="3")[:-1]: "wrong_type",
    line(expiration_time=False)[:-1]: "wrong_type",
    line(signal=None)[:-1]: "wrong_type",
    line(signal=9.0)[:-1]: "wrong_type",
    line(start_time="5")[:-1]: "wrong_type",
    line(thread=1.5)[:-1]: "wrong_type",
    line(deadline_ns=1.5)[:-1]: "wrong_type",
    line(after="1")[:-1]: "wrong_type",
    line(warn_after="1")[:-1]: "wrong_type",
    line(warn_after=True)[:-1]: "wrong_type",
    line(nested=1)[:-1]: "wrong_type",
    line(nested=None)[:-1]: "wrong_type",
    line(leave="yes")[:-1]: "wrong_type",
    line(error=3)[:-1]: "wrong_type",
    line(traceparent=3)[:-1]: "wrong_type",
    line(pid=10**30)[:-1]: "out_of_range",
    line(pid=-(10**30))[:-1]: "out_of_range",
    line(pid=10**4000)[:-1]: "out_of_range",
    line(signal=65)[:-1]: "out_of_range",
    line(signal=-65)[:-1]: "out_of_range",
    line(expiration_time=10**30)[:-1]: "out_of_range",
    line()[:-1].replace(b"1795141628.03", b"1e999"): "out_of_range",
    line()[:-1].replace(b"1795141628.03", b"-1e999"): "out_of_range",
    line(deadline_ns=-1)[:-1]: "out_of_range",
    line(deadline_ns=2**63)[:-1]: "out_of_range",
    line(after=-1)[:-1]: "out_of_range",
    line(after=10**30)[:-1]: "out_of_range",
    line(warn_after=-1)[:-1]: "out_of_range",
    line(warn_after=10**30)[:-1]: "out_of_range",
    b"x" * 10_000: "too_long",
    line(scope_id="s" * 10_000)[:-1]: "too_long",
    line(scope_id="s" * (MAX_LINE_BYTES - len(line()) + 2))[:-1]: "too_long",
}


@pytest.mark.parametrize(("bad", "reason"), BAD.items(), ids=lambda value: repr(value)[:40])
def test_a_bad_line_costs_that_line_and_is_counted_once(bad: bytes, reason: str) -> None:
    assert reason in REJECTION_REASONS
    data = line(pid=2) + bad + b"\n" + line(pid=3)
    messages, rejected = decode(data)
    assert [message.pid for message in messages] == [2, 3]
    assert rejected == [reason]


def test_what_is_wrong_is_shown_and_bounded() -> None:
    _, (rejection,) = Decoder().feed(b"x" * 10_000 + b"\n")
    assert "xxx" in rejection.detail
    assert len(rejection.detail) < 300
    _, (rejection,) = Decoder().feed(b"\xff\x00\n")
    assert rejection.detail.isprintable()


def test_negative_pids_are_left_to_the_server_to_refuse() -> None:
    # They are well-formed; that they name process groups is not for a codec to know.
    assert [message.pid for message in decode(line(pid=-1))[0]] == [-1]


def test_the_longest_line_is_valid() -> None:
    longest = line(scope_id="s" * (MAX_LINE_BYTES - len(line()) + 1))
    assert len(longest) == MAX_LINE_BYTES
    assert bounded(longest) is longest
    (message,), rejected = decode(longest)
    assert (message.pid, rejected) == (1870, [])


def test_a_longer_line_is_not_written() -> None:
    with pytest.raises(RequestTooLargeError, match=r"4097 bytes does not fit.*shorter scope"):
        bounded(b"x" * 4097)


@pytest.mark.parametrize(
    "half", [line()[:n] for n in (1, 10, 11, 40, len(line()) - 2)], ids=lambda half: str(len(half))
)
def test_a_half_line_of_a_dead_writer_does_not_take_the_next_one_with_it(half: bytes) -> None:
    messages, rejected = decode(half + line(pid=2) + line(pid=3))
    assert [message.pid for message in messages] == [2, 3]
    assert rejected == ["not_json"]


def test_a_scope_that_contains_the_start_of_a_line_is_a_scope() -> None:
    scope = '{"version": 1, "pid": 1}'
    messages, rejected = decode(line(scope_id=scope))
    assert ([message.scope_id for message in messages], rejected) == ([scope], [])


def test_an_endless_line_costs_no_memory_and_is_counted_once() -> None:
    decoder = Decoder()
    for _ in range(300):
        assert decoder.feed(b"x" * 10_000) == ([], [])
        assert len(decoder.rest) <= MAX_LINE_BYTES + 1
    messages, rejections = decoder.feed(b"x\n" + line())
    assert [message.pid for message in messages] == [1870]
    assert [rejection.reason for rejection in rejections] == ["too_long"]


def test_a_valid_line_behind_an_endless_half_comes_through() -> None:
    decoder = Decoder()
    decoder.feed(b"x" * 100_000)
    messages, rejections = decoder.feed(line(pid=2))
    assert [message.pid for message in messages] == [2]
    assert [rejection.reason for rejection in rejections] == ["too_long"]


def test_an_unfinished_last_line_is_told_when_asked() -> None:
    decoder = Decoder()
    assert decoder.feed(line() + b'{"vers') != ([], [])
    (rejection,) = decoder.close()
    assert rejection == Rejection("not_json", "unfinished line: '{\"vers'")
    assert decoder.close() == []


# -- any bytes, any cut ---------------------------------------------------------------------------

valid_lines = st.builds(
    line,
    pid=st.integers(2, 2**22),
    scope_id=st.text(max_size=30),
    expiration_time=st.one_of(st.just(-1), st.floats(0, 4e9), st.integers(0, 2**32)),
    signal=st.integers(-64, 64),
)
bad_lines = st.one_of(
    st.sampled_from(sorted(BAD)),
    st.binary(max_size=60).filter(lambda data: b"\n" not in data),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text() | st.sampled_from([*VALID]), inner)
        ),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode()),
).map(lambda data: data + b"\n")
chunks = st.lists(
    st.one_of(
        valid_lines,
        bad_lines,
        st.binary(max_size=100),
        st.sampled_from([b"x" * 5000, b"{" * 4096, line()[:20], b"\n\n"]),
    ),
    max_size=12,
).map(b"".join)
places = st.lists(st.integers(0, 2**20), max_size=20)


def outcome(pieces: Iterator[bytes]) -> tuple[list[Message], list[str]]:
    decoder = Decoder()
    messages: list[Message] = []
    reasons: list[str] = []
    for piece in pieces:
        found, rejections = decoder.feed(piece)
        messages += found
        reasons += [rejection.reason for rejection in rejections]
        assert len(decoder.rest) <= MAX_LINE_BYTES + 1
    return messages, reasons


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(chunks, places)
@example(line() * 3, [1, 2, 3, 50, 90])
@example(b"y" * 9000 + line(), [4096, 4097, 8999])
def test_how_the_bytes_are_cut_makes_no_difference(data: bytes, where: list[int]) -> None:
    assert outcome(cut(data, where)) == outcome(iter([data]))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.booleans(), valid_lines, bad_lines), max_size=15), places)
def test_valid_lines_come_through_whatever_is_between_them(
    lines: list[tuple[bool, bytes, bytes]], where: list[int]
) -> None:
    data = b"".join(valid if good else bad for good, valid, bad in lines)
    messages, reasons = outcome(cut(data, where))
    expected = [outcome(iter([valid]))[0][0] for good, valid, _ in lines if good]
    alone = [outcome(iter([bad])) for good, _, bad in lines if not good]
    # A line of the bad kind that happens to be valid counts as what it is.
    lucky = sum(len(found) for found, _ in alone)
    if not lucky:
        assert messages == expected
    assert len(messages) == len(expected) + lucky
    assert reasons == [reason for _, reasons in alone for reason in reasons]
    assert set(reasons) <= set(REJECTION_REASONS)


@settings(deadline=None)
@given(valid_lines, st.integers(1, 2**20), valid_lines)
def test_any_half_of_a_line_leaves_the_next_one_whole(
    half: bytes, length: int, whole: bytes
) -> None:
    length = 1 + length % (len(half) - 2)  # from one byte to all but the closing brace
    messages, reasons = outcome(iter([half[:length] + whole]))
    assert messages == outcome(iter([whole]))[0]
    assert reasons == ["not_json"]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    messages, reasons = outcome(iter([data, b"\n"]))
    assert len(messages) + len(reasons) >= 1


# -- what our client writes -----------------------------------------------------------------------

scopes = st.text(
    st.characters(codec=None, exclude_categories=[]),
    max_size=200,  # surrogates included
)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FifoReader]:
    reader = FifoReader(str(tmp_path_factory.mktemp("wire") / "pipe"))
    yield reader
    reader.close()


@settings(max_examples=200, deadline=None)
@given(
    scope=scopes,
    expiration_time=st.floats(0, 4e9),
    signal=st.integers(-64, 64),
)
@example("\ud800", 1.0, 9)
@example('"\\\n\r\x00\x7f\u2028\u0085', 1.0, 9)
@example("\U0001f600 é", 1.0, 9)
@example("", 8388608.312426325, 0)
def test_what_the_client_writes_is_what_the_server_reads(
    pipe: FifoReader, scope: str, expiration_time: float, signal: int
) -> None:
    client = FileTimerClient(pipe.path, signal)
    client.acquire(scope, expiration_time)
    client.release(scope)
    data = pipe.read()
    assert data.isascii()
    assert data.count(b"\n") == 2
    (acquired, released), rejected = decode(data)
    assert rejected == []
    for message in (acquired, released):
        assert message.pid == os.getpid()
        assert message.scope_id == writable(scope)
        assert message.start_time == start_time(os.getpid())
        assert message.thread == threading.get_native_id()
    # In whole nanoseconds, which for today's times is exact: floats have fewer digits by far.
    nanosecond = 1e-9 + math.ulp(expiration_time)
    assert acquired.expiration_time == pytest.approx(expiration_time, rel=0, abs=nanosecond)
    assert acquired.signal == signal
    assert (released.expiration_time, released.signal) == (-1, 0)
    message.scope_id.encode("utf-8")


def test_a_block_is_an_acquire_with_all_we_know_and_a_release(pipe: FifoReader) -> None:
    client = FileTimerClient(pipe.path, 15)

    @expires(after=2.5, scope="s", client=client)
    def fail() -> None:
        with expires(after=1.5, scope="s", client=client):
            pass
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    (outer, inner, leave, released), rejected = decode(pipe.read())
    assert rejected == []
    assert [m.after for m in (outer, inner, leave)] == [2.5, 1.5, 2.5]
    assert [m.nested for m in (outer, inner, leave)] == [False, True, False]
    assert [m.leave for m in (outer, inner, leave, released)] == [False, False, True, False]
    assert [m.error for m in (outer, inner, leave, released)] == [None, None, None, "KeyError"]
    for message in (outer, inner, leave):
        assert message.deadline_ns is not None
        assert message.signal == 15


def test_what_torch_reads_is_among_what_we_write(pipe: FifoReader) -> None:
    FileTimerClient(pipe.path).acquire("x", 17.25)
    (written,) = [json.loads(text) for text in pipe.read().splitlines()]
    assert {key: written[key] for key in VALID} == {
        "version": 1,
        "pid": os.getpid(),
        "scope_id": "x",
        "expiration_time": 17.25,
        "signal": 9,
    }


@given(scope=scopes, expiration_time=st.floats(-1, 4e9))
@settings(deadline=None)
def test_a_request_as_torch_writes_it(scope: str, expiration_time: float) -> None:
    request = FileTimerRequest(7, scope, expiration_time, 9)
    assert request.to_json() == request_json(7, scope, expiration_time, 9)
    (message,), rejected = decode(request.to_json().encode() + b"\n")
    assert message == Message(7, writable(scope), expiration_time, 9)
    assert rejected == []


def test_the_order_of_keys_is_torchs() -> None:
    assert list(json.loads(request_json(1, "x", -1, 0))) == list(VALID)


@pytest.mark.parametrize("impossible", [math.nan, math.inf])
def test_an_impossible_time_is_not_sent(pipe: FifoReader, impossible: float) -> None:
    client = FileTimerClient(pipe.path)
    client.acquire("possible", 1.0)
    with pytest.raises((ValueError, OverflowError)):
        client.acquire("x", impossible)
    assert [message.scope_id for message in decode(pipe.read())[0]] == ["possible"]


def test_a_scope_too_long_for_one_write_is_refused_before_it_is_sent(pipe: FifoReader) -> None:
    client = FileTimerClient(pipe.path)
    client.acquire("short", 1.0)
    with pytest.raises(RequestTooLargeError, match="shorter scope"):
        client.acquire("s" * 4096, 1.0)
    assert [message.scope_id for message in decode(pipe.read())[0]] == ["short"]


@given(scopes)
def test_writable_text_can_be_written(text: str) -> None:
    assert writable(writable(text)) == writable(text)
    assert writable(text).encode("utf-8").decode("utf-8") == writable(text)
    if "\\" not in writable(text):
        assert writable(text) == text


def test_a_request_in_a_queue_is_made_writable_too() -> None:
    queue: mp.queues.SimpleQueue[object] = mp.get_context("spawn").SimpleQueue()
    source = QueueSource(MultiprocessingRequestQueue(queue))
    LocalTimerClient(queue).acquire("caf\udce9", 1.0)
    queue.put("not a request")
    LocalTimerClient(queue).release("caf\udce9")
    messages, rejections = source.read(0.0)
    assert [message.scope_id for message in messages] == ["caf\\udce9"] * 2
    assert [rejection.reason for rejection in rejections] == ["wrong_type"]
    queue.close()
