"""The decoder beside the plain reader: families of lines that are nearly the same, made up."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.families import GOOD, TEXTS, families
from fuzz.reference import of_line
from fuzz.wire_lines import check_bytes, cut, read
from timers import FileTimerClient, FileTimerRequest
from timers.transport.fifo_reader import FifoReader
from timers.transport.wire import MAX_LINE_BYTES, Decoder, Message

CI = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@CI
@given(families(), st.lists(st.integers(0, 2**16), max_size=6))
@example([b'{"version": 1, "pid": 1, "scope_id": "x", "expiration_time": 1, "signal": 9}'] * 2, [])
def test_a_line_says_the_same_whatever_came_before_it(lines: list[bytes], order: list[int]) -> None:
    turned = [lines[place % len(lines)] for place in order]
    check_bytes(b"\n".join([*lines, *turned, *lines, b""]))


@CI
@given(families(), families())
def test_two_clients_in_one_pipe(mine: list[bytes], others: list[bytes]) -> None:
    mixed = [line for pair in zip(mine, others, strict=False) for line in pair]
    check_bytes(b"\n".join([*mine, *others, *mixed, b""]))


@CI
@given(st.lists(st.sampled_from([b'{"version"', b"{", b"}", b'"', b"\n", b"1", b":", b",", b" "])
                | st.binary(max_size=8), max_size=40), st.lists(st.integers(0, 2**16)))  # fmt: skip
def test_any_bytes_cut_anywhere(pieces: list[bytes], places: list[int]) -> None:
    data = b"".join(pieces) + b"\n"
    check_bytes(data)
    assert read(Decoder(), cut(data, places)) == read(Decoder(), [data])


@CI
@given(st.fixed_dictionaries({key: GOOD[key] for key in GOOD}))
def test_what_is_in_order_is_taken_as_it_is(facts: dict[str, Any]) -> None:
    line = json.dumps({"version": 1, **facts}).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        return
    (message,), reasons = read(Decoder(), [line])
    assert reasons == []
    expected = {**facts, "missed": facts["missed"] and tuple(facts["missed"])}
    for key in ("scope_id", "error"):
        if expected[key] is not None:
            expected[key] = expected[key].encode("utf-8", "backslashreplace").decode()
    assert message == Message(**expected)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    reader = FifoReader(str(tmp_path_factory.mktemp("fuzz") / "pipe"))
    yield reader
    reader.close()


@CI
@given(scope=TEXTS, time=st.floats(-1e300, 1e300) | st.integers(-(10**300), 10**300))
def test_what_our_client_writes_is_taken_or_refused_for_its_time(
    pipe: FifoReader, scope: str, time: float
) -> None:
    client = FileTimerClient(pipe.path)
    client._send_request(FileTimerRequest(5, scope, time, 9))
    client.release(scope)
    first, second = pipe.read().splitlines()
    message, reason = of_line(first)
    check_bytes(first + b"\n" + second + b"\n")
    assert reason == ("out_of_range" if time >= (2**63 - 1) // 10**9 else None)
    if message is not None:
        assert message.expiration_time == time
    released, _ = of_line(second)
    assert released is not None
    assert released.expiration_time == -1


def test_json_that_goes_on_over_lines_is_not_followed() -> None:
    # Each of these lines is the beginning of a list that the next ones go on with. To read on
    # costs memory (and, line for line, time that grows with the square of what lies in the pipe).
    line = b"[" + b"[]," * 1300 + b"\n"
    data = line * 50
    tracemalloc.start()
    try:
        messages, reasons = read(Decoder(), [data])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert messages == []
    assert reasons == ["not_json"] * 50
    assert peak < 5 * len(data)
