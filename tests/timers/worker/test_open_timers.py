"""What a client tells again: how its timers stand, and what was never told, as counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timers.transport.wire import Decoder
from timers.worker import _open_timers as open_timers
from timers.worker._open_timers import OpenTimers
from timers.worker._request_lines import LEAVE, NESTED, RequestLines

if TYPE_CHECKING:
    from timers.transport.wire import Message

KEY = (1, "x")


def acquire(
    deadline: int = 1, *, nested: bool = False, leave: bool = False, rest: str = ""
) -> tuple[str, str, str]:
    base = (
        '{"version": 1, "pid": 1870, "thread": 1, "scope_id": "x", "expiration_time": 1.0, '
        f'"signal": 9, "deadline_ns": {deadline}, "after": 1.0'
    )
    return base, NESTED if nested else LEAVE + ', "error": "E"' if leave else "", rest


@pytest.fixture
def timers() -> OpenTimers:
    return OpenTimers(RequestLines().released)


def messages(timers: OpenTimers) -> list[Message]:
    """What is told, as a server reads it."""
    found = []
    for key in list(timers.untold):
        for line in timers.lines(key):
            (message,), rejections = Decoder().feed(line.encode())
            assert rejections == []
            found.append(message)
        timers.told(key)
    return found


def test_a_new_server_is_told_of_what_is_open_with_its_own_deadline(timers: OpenTimers) -> None:
    timers.acquire(KEY, *acquire(7, rest=', "warn_after": 0.5'))
    timers.acquire((2, "y"), *acquire(8))
    timers.release((2, "y"))
    timers.nothing_told()
    [message] = messages(timers)
    assert (message.deadline_ns, message.warn_after, message.missed) == (7, 0.5, (0, 0))
    assert len(timers) == 1
    assert not timers.untold


def test_blocks_in_blocks_are_told_from_the_outside(timers: OpenTimers) -> None:
    timers.acquire(KEY, *acquire(1))
    timers.acquire(KEY, *acquire(2, nested=True))
    timers.acquire(KEY, *acquire(3, nested=True))
    timers.acquire(KEY, *acquire(4, leave=True))  # the second starts its countdown again
    timers.not_told(KEY, was_open=True, acquires=3, releases=1)
    found = messages(timers)
    assert [(message.deadline_ns, message.nested) for message in found] == [(1, False), (4, True)]
    assert [message.missed for message in found] == [(0, 0), (3, 1)]
    assert not any(message.leave for message in found)


def test_a_heartbeat_replaces_the_deadline(timers: OpenTimers) -> None:
    timers.acquire(KEY, *acquire(1))
    timers.acquire(KEY, *acquire(2))
    timers.nothing_told()
    assert [message.deadline_ns for message in messages(timers)] == [2]


def test_the_end_of_an_inner_block_keeps_the_span_of_the_outer(timers: OpenTimers) -> None:
    timers.acquire(KEY, *acquire(1, rest=', "span_id": "0123456789abcdef"'))
    timers.acquire(KEY, *acquire(2, nested=True))
    timers.acquire(KEY, *acquire(3, leave=True))
    timers.nothing_told()
    [message] = messages(timers)
    assert (message.deadline_ns, message.span_id) == (3, "0123456789abcdef")


def test_what_piles_up_is_one_line_with_the_counts_of_all(timers: OpenTimers) -> None:
    timers.acquire(KEY, *acquire())  # this one was told
    timers.release(KEY)
    timers.not_told(KEY, was_open=True, releases=1)
    for _ in range(100):
        timers.acquire(KEY, *acquire())
        timers.not_told(KEY, was_open=False, acquires=1)
        timers.release(KEY)
        timers.not_told(KEY, was_open=True, releases=1)
    [message] = messages(timers)
    assert (message.expiration_time, message.missed) == (-1, (100, 101))


def test_a_backlog_gives_up_counts_and_never_a_release(
    timers: OpenTimers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_timers, "_MOST_BACKLOG", 10)
    for step in range(5):
        timers.acquire((1, f"told {step}"), *acquire())
    timers.nothing_told()
    for step in range(5):
        timers.release((1, f"told {step}"))
        timers.not_told((1, f"told {step}"), was_open=True, releases=1)
    for step in range(100):
        key = (1, f"step {step}")
        timers.acquire(key, *acquire())
        timers.not_told(key, was_open=False, acquires=1)
        timers.release(key)
        timers.not_told(key, was_open=True, releases=1)
    timers.acquire((1, "open"), *acquire())
    timers.not_told((1, "open"), was_open=False, acquires=1)
    assert len(timers.untold) <= 11
    scopes = [message.scope_id for message in messages(timers)]
    assert scopes[:5] == [f"told {step}" for step in range(5)]
    assert scopes[-1] == "x"  # the line of the open one: all lines here say "x"


@given(st.lists(st.sampled_from(["enter", "inner", "leave", "release", "lost"])))
def test_a_server_that_is_told_again_knows_what_is_open(steps: list[str]) -> None:
    timers = OpenTimers(RequestLines().released)
    depth = 0
    for number, step in enumerate(steps):
        if step == "lost":
            timers.nothing_told()
        elif step == "release":
            timers.release(KEY)
            depth = 0
        elif step == "enter":
            timers.acquire(KEY, *acquire(number))
            depth = max(depth, 1)
        elif step == "inner" and depth:
            timers.acquire(KEY, *acquire(number, nested=True))
            depth += 1
        elif step == "leave" and depth > 1:
            timers.acquire(KEY, *acquire(number, leave=True))
            depth -= 1
    timers.nothing_told()
    found = [message for message in messages(timers) if message.expiration_time >= 0]
    assert [message.nested for message in found] == [index > 0 for index in range(depth)]
    assert timers.is_open(KEY) == bool(depth)
