"""Events as flat dictionaries."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from observability.fields import timestamp, to_fields
from support.samples import (
    PARENT_ID,
    SPAN_ID,
    TIMER,
    TRACE_ID,
    WORKER,
    all_events,
    expired,
    stack_dumped,
)
from timers.events import Outcome, WatchdogStopped, WorkerExited, WorkerKilled
from timers.stacks.take import Frame, StackDump, ThreadStack


def test_every_event_is_flat_and_names_itself() -> None:
    events = all_events()
    assert len(events) == 11
    for event in events:
        fields = to_fields(event, run_id="default", host="node-1")
        assert fields["event"] == event.name
        assert fields["level"] == event.level
        assert fields["run_id"] == (event.run_id or "default")
        assert fields["host"] == "node-1"
        assert fields["timestamp"].endswith("Z")
        assert not [name for name, value in fields.items() if isinstance(value, (dict, tuple))]
        assert None not in fields.values()


def test_an_expired_timer_in_full() -> None:
    assert to_fields(expired()) == {
        "event": "timer expired",
        "level": "warning",
        "timestamp": "2023-11-14T22:14:20.750000Z",
        "run_id": "run-1",
        "worker_pid": 4711,
        "rank": 3,
        "local_rank": 1,
        "restart_count": 2,
        "scope_id": "all_reduce",
        "after_seconds": 60.0,
        "expiration_time": 1.0,
        "signal": 9,
        "elapsed_seconds": 60.25,
        "lateness_seconds": 0.25,
        "message": "Rank 3 (pid 4711) is still in all_reduce after 60.2 s, past its deadline of"
        " 60 s.",
    }


def test_a_stack_names_the_line_in_the_users_own_file() -> None:
    fields = to_fields(stack_dumped())
    assert fields["frame"] == "/home/user/train.py:42 load_batch"
    assert fields["innermost_frame"].endswith("/dist/pipe.py:7 recv")
    assert fields["trace_id"] == TRACE_ID
    assert fields["span_id"] == SPAN_ID
    assert fields["stack_method"] == "py-spy"
    assert fields["stack_seconds"] == 0.008
    assert "stack_error" not in fields
    assert fields["process_state"] == "sleeping"
    assert fields["process_wait_channel"] == "futex_wait"
    assert fields["process_open_files"] == 12
    assert "process_threads" not in fields
    assert [thread["thread"] for thread in fields["stack"]] == [4712, 4711]
    assert fields["stack"][0] == {
        "thread": 4712,
        "name": "loader",
        "holds_gil": True,
        "active": False,
        "frames": [
            "/opt/venv/lib/python3.11/site-packages/dist/pipe.py:7 recv",
            "/home/user/train.py:42 load_batch",
            "/usr/lib/python3.11/threading.py:980 run",
        ],
    }


def test_a_dump_without_a_stack_says_why() -> None:
    dump = StackDump(pid=1, method="proc", error="py-spy: not permitted")
    fields = to_fields(stack_dumped(dump))
    assert fields["stack_error"] == "py-spy: not permitted"
    assert not {"frame", "stack"} & fields.keys()


@pytest.mark.parametrize(
    ("file", "own"),
    [
        ("/home/user/train.py", True),
        ("train.py", True),
        ("/home/user/lib/model.pyx", True),
        ("<stdin>", True),
        ("<ipython-input-3>", True),
        ("<frozen runpy>", False),
        ("/usr/lib/python3.12/runpy.py", False),
        ("/opt/venv/lib64/python3.11/site-packages/torch/nn.py", False),
        ("/usr/lib/python3/dist-packages/yaml.py", False),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", False),
        ("", False),
    ],
)
def test_what_is_the_users_own_code(file: str, *, own: bool) -> None:
    frames = (Frame("inner", file, 1), Frame("outer", "/home/user/main.py", 2))
    dump = StackDump(pid=9, method="py-spy", threads=(ThreadStack(frames=frames),))
    expected = f"{file}:1 inner" if own else "/home/user/main.py:2 outer"
    assert to_fields(stack_dumped(dump))["frame"] == expected


def test_without_any_own_code_the_innermost_call_is_the_frame() -> None:
    frames = (Frame("read", "/usr/lib/python3.11/os.py", 1),)
    dump = StackDump(pid=9, method="py-spy", threads=(ThreadStack(frames=frames),))
    fields = to_fields(stack_dumped(dump))
    assert fields["frame"] == "/usr/lib/python3.11/os.py:1 read"
    assert "innermost_frame" not in fields


def test_a_worker_that_died_in_its_scopes() -> None:
    outer = replace(TIMER, scope_id="epoch", traceparent=None)
    fields = to_fields(
        WorkerExited(timestamp=1.0, worker=WORKER, timers=((outer, 90.0), (TIMER, 3.0)))
    )
    assert fields["level"] == "warning"
    assert fields["scope_id"] == "all_reduce"
    assert fields["elapsed_seconds"] == 3.0
    assert fields["trace_id"] == TRACE_ID
    assert "signal" not in fields
    assert fields["timers_open"] == 2
    assert [timer["scope_id"] for timer in fields["timers"]] == ["all_reduce", "epoch"]
    alone = to_fields(WorkerExited(timestamp=1.0, worker=WORKER, timers=((TIMER, 3.0),)))
    assert alone["timers_open"] == 1
    assert "timers" not in alone
    none = to_fields(WorkerExited(timestamp=1.0, worker=WORKER))
    assert none["level"] == "info"
    assert not {"scope_id", "timers", "timers_open"} & none.keys()


def test_a_kill_keeps_its_own_timer_among_several() -> None:
    inner = replace(TIMER, scope_id="inner")
    fields = to_fields(
        WorkerKilled(
            timestamp=1.0,
            worker=WORKER,
            timer=TIMER,
            elapsed_seconds=61.0,
            signal=15,
            outcome=Outcome.ESCALATED,
            timers=((TIMER, 61.0), (inner, 2.0)),
            descendants=(7, 8),
        )
    )
    assert fields["scope_id"] == "all_reduce"
    assert fields["elapsed_seconds"] == 61.0
    assert fields["signal"] == 15
    assert fields["outcome"] == "escalated"
    assert type(fields["outcome"]) is str
    assert fields["descendants"] == [7, 8]
    assert [timer["scope_id"] for timer in fields["timers"]] == ["inner", "all_reduce"]


def test_open_timers_of_a_stopped_watchdog_name_their_workers() -> None:
    fields = to_fields(WatchdogStopped(timestamp=1.0, timers=((WORKER, TIMER, 2.0),)))
    assert "scope_id" not in fields
    stopped = to_fields(
        WatchdogStopped(timestamp=1.0, timers=((WORKER, TIMER, 2.0), (WORKER, TIMER, 1.0)))
    )
    assert stopped["timers"][0] == {
        "worker_pid": 4711,
        "scope_id": "all_reduce",
        "after_seconds": 60.0,
        "elapsed_seconds": 1.0,
    }


def test_what_is_not_known_is_left_out() -> None:
    unknown = replace(TIMER, after_seconds=math.nan)
    event = replace(expired(), timer=unknown, elapsed_seconds=math.inf)
    fields = to_fields(event)
    assert fields["scope_id"] == "all_reduce"
    assert not {"after_seconds", "elapsed_seconds", "host"} & fields.keys()
    exited = WorkerExited(timestamp=1.0, worker=WORKER, timers=((unknown, 1.0), (unknown, 2.0)))
    assert "after_seconds" not in to_fields(exited)["timers"][0]


def test_trace_and_span_ids() -> None:
    traced = to_fields(replace(expired(), timer=TIMER))
    assert traced["trace_id"] == TRACE_ID
    assert traced["span_id"] == SPAN_ID
    assert traced["parent_span_id"] == PARENT_ID
    reserved_none = to_fields(replace(expired(), timer=replace(TIMER, span_id=None)))
    assert reserved_none["trace_id"] == TRACE_ID
    assert "span_id" not in reserved_none
    garbage = to_fields(replace(expired(), timer=replace(TIMER, traceparent="garbage")))
    assert garbage["scope_id"] == "all_reduce"
    assert not {"trace_id", "span_id", "parent_span_id"} & garbage.keys()


def test_timestamps_are_rfc_3339_with_microseconds() -> None:
    assert timestamp(0.0) == "1970-01-01T00:00:00.000000Z"
    assert timestamp(1_700_000_000.000_001) == "2023-11-14T22:13:20.000001Z"
