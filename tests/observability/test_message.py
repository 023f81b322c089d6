"""Each event in one sentence, made of whatever is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from observability import message as messages
from observability.events import LogRecord, Notice, RunFinished, event_names
from observability.fields import to_fields
from observability.message import message
from support.samples import all_events

if TYPE_CHECKING:
    from timers.events import Event

REAPED = {
    "event": "kill worker process", "worker_pid": 4711, "rank": 2, "host": "gpu-3",
    "scope_id": "train_step", "after_seconds": 60.0, "elapsed_seconds": 60.5, "signal": 9,
    "outcome": "killed", "frame": "data.py:22 fetch_shard",
    "sentence": "Rank 2 (pid 4711 on gpu-3) is stuck at data.py:22 fetch_shard.",
}  # fmt: skip


def test_the_end_of_a_reap_has_the_whole_story() -> None:
    assert message(REAPED) == (
        "Rank 2 (pid 4711 on gpu-3) overran train_step at data.py:22 fetch_shard and was killed"
        " with SIGKILL, 0.5 s after its deadline of 60 s. Rank 2 (pid 4711 on gpu-3) is stuck at"
        " data.py:22 fetch_shard."
    )


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"outcome": "escalated", "signal": 15}, "SIGKILL, because it outlived SIGTERM, 0.5 s"),
        ({"outcome": "already_gone"}, "was gone by itself before it was killed"),
        ({"outcome": "error"}, "counted as reaped"),
        ({"descendants": [5, 6]}, "60 s; 2 of its child processes with it. Rank 2"),
        ({"signal": 64}, "killed with SIGRTMAX"),
        ({"signal": 99}, "killed with signal 99"),
        ({"rank": None}, "Worker 4711 on gpu-3 overran"),
        ({"rank": None, "worker_pid": None, "host": None}, "Worker of unknown pid overran"),
    ],
)
def test_what_was_done_is_said(known: dict[str, Any], expected: str) -> None:
    fields = {name: value for name, value in {**REAPED, **known}.items() if value is not None}
    assert expected in message(fields)


def test_a_worker_that_ended_in_its_block_is_said_with_how() -> None:
    exited = {"event": "worker exited", "worker_pid": 7, "scope_id": "step", "timers_open": 1}
    said = message({**exited, "elapsed_seconds": 3.0, "exit_signal": 11})
    assert said == "Worker 7 was ended by SIGSEGV inside step, 3 s after it began."
    assert (
        message({**exited, "timers_open": 0, "exit_code": 1}) == "Worker 7 ended with exit code 1."
    )


def test_the_last_line_counts() -> None:
    event = RunFinished(
        timestamp=1.0, exit_code=1, elapsed_seconds=123.4, acquires=5, expirations=1, reaps=1
    )
    assert to_fields(event)["message"] == (
        "The command exited with 1 after 123 s: 5 timers acquired, 1 expired, 1 worker reaped."
    )


@pytest.mark.parametrize(
    "event",
    [
        Notice(timestamp=1.0, message="as it is"),
        LogRecord(timestamp=1.0, severity="error", logger="x", message="as it is"),
    ],
)
def test_what_is_a_message_already_stands(event: Event) -> None:
    assert to_fields(event)["message"] == "as it is"


def test_every_event_has_a_sentence_of_its_own() -> None:
    written = {*messages._SENTENCES, Notice.name, LogRecord.name}
    assert written == set(event_names())
    for event in all_events():
        said = to_fields(event, host="node-1")["message"]
        assert said.endswith(".")
        assert said != f"{event.name.capitalize()}."


@pytest.mark.parametrize("name", event_names())
def test_nothing_need_be_known(name: str) -> None:
    assert message({"event": name})


def test_an_event_that_is_not_known_is_named() -> None:
    assert message({"event": "something new"}) == "Something new."


@settings(deadline=None, max_examples=50)
@given(text=st.text(min_size=1), name=st.sampled_from(sorted(messages._SENTENCES)))
def test_whatever_a_worker_calls_itself_it_is_one_printable_line(text: str, name: str) -> None:
    named = ("scope_id", "frame", "sentence", "detail", "reason", "host", "stack_error", "outcome")
    said = message({"event": name, **dict.fromkeys(named, text)})
    assert said.splitlines() == [said]
    assert "\x1b" not in said
