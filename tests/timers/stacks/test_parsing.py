"""The outputs of the stack tools, good, odd and broken."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timers.stacks._parsing import explain, parse_py_spy, parse_pystack
from timers.stacks.dump import Frame, StackDump, ThreadStack

FRAME: dict[str, Any] = {"name": "fit", "filename": "/job/train.py", "line": 12}
THREAD: dict[str, Any] = {
    "pid": 7,
    "thread_id": 140682245503872,
    "thread_name": "MainThread",
    "os_thread_id": 7,
    "active": True,
    "owns_gil": False,
    "frames": [FRAME, {**FRAME, "name": "<module>", "line": 40}],
}

PYSTACK = b"""\
Traceback for thread 8 (pt_autograd (0)) [] (most recent call last):
    (Python) File "/lib/threading.py", line 1002, in _bootstrap
        self._bootstrap_inner()
    (C) File "./Modules/timemodule.c", line 383, in time_sleep (/lib/libpython3.11.so.1.0)

Traceback for thread 7 (python) [Has the GIL,Garbage collecting] (most recent call last):
    (Python) File "/job/train.py", line 40, in <module>
        (Python) File "/job/not a frame.py", line 1, in source
    (Python) File "/job/train.py", line 12, in fit
The frame stack for thread 9 is empty
"""

PYSTACK_INTERPRETERS = b"""\
Traceback for thread 7 (python) (most recent call last):
  In the main interpreter []
    (Python) File "/job/train.py", line 40, in <module>
  In interpreter 1 [Has the GIL]
    (Python) File "/job/train.py", line 12, in fit
"""


def test_reads_py_spy() -> None:
    assert parse_py_spy(json.dumps([THREAD]).encode()) == (
        ThreadStack(
            frames=(Frame("fit", "/job/train.py", 12), Frame("<module>", "/job/train.py", 40)),
            thread=7,
            name="MainThread",
            active=True,
        ),
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"os_thread_id": None}, {"thread": None}),
        ({"os_thread_id": True}, {"thread": None}),
        ({"os_thread_id": 10**30}, {"thread": None}),
        ({"thread_name": None}, {"name": None}),
        ({"thread_name": ""}, {"name": None}),
        ({"thread_name": "\ud800\u00fc"}, {"name": "?\u00fc"}),
        ({"owns_gil": True, "active": False}, {"holds_gil": True, "active": True}),
        ({"active": "yes"}, {"active": False}),
        ({"frames": None}, {"frames": ()}),
        ({"frames": ["x", {}]}, {"frames": (Frame("?", "?", 0),)}),
        ({"frames": [{**FRAME, "line": None}]}, {"frames": (Frame("fit", "/job/train.py", 0),)}),
        ({"frames": [{**FRAME, "line": -1}]}, {"frames": (Frame("fit", "/job/train.py", 0),)}),
    ],
)
def test_reads_what_py_spy_does_not_know(change: dict[str, Any], expected: dict[str, Any]) -> None:
    parsed = parse_py_spy(json.dumps([{**THREAD, **change}]).encode())
    assert parsed is not None
    assert {name: getattr(parsed[0], name) for name in expected} == expected


def test_reads_names_that_are_not_utf8() -> None:
    text = json.dumps([THREAD]).encode().replace(b"train", b"tr\xffin")
    parsed = parse_py_spy(text)
    assert parsed is not None
    assert parsed[0].frames[0].file == "/job/tr\ufffdin.py"


@pytest.mark.parametrize("output", [b"", b"{}", b"null", b"[", b"[" * 100_000, b"1" * 9999, b"\0"])
def test_what_is_not_py_spy(output: bytes) -> None:
    assert parse_py_spy(output) is None


def test_reads_pystack() -> None:
    assert parse_pystack(PYSTACK) == (
        ThreadStack(
            frames=(
                Frame("time_sleep (/lib/libpython3.11.so.1.0)", "./Modules/timemodule.c", 383),
                Frame("_bootstrap", "/lib/threading.py", 1002),
            ),
            thread=8,
            name="pt_autograd (0)",
        ),
        ThreadStack(
            frames=(Frame("fit", "/job/train.py", 12), Frame("<module>", "/job/train.py", 40)),
            thread=7,
            name="python",
            holds_gil=True,
            active=True,
        ),
        ThreadStack(frames=(), thread=9),
    )


def test_reads_pystack_of_several_interpreters() -> None:
    parsed = parse_pystack(PYSTACK_INTERPRETERS)
    assert parsed is not None
    assert [(stack.thread, len(stack.frames), stack.holds_gil) for stack in parsed] == [
        (7, 2, True)
    ]


@pytest.mark.parametrize("output", [b"", b"\n", b'    (Python) File "x", line 1, in y\n', b"\xff"])
def test_what_is_not_pystack(output: bytes) -> None:
    assert parse_pystack(output) is None


def encodable(dump: StackDump) -> bytes:
    return f"{dump.render()}\n{dump.summary()}".encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*THREAD, *FRAME]), inner),
)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    output=st.binary()
    | st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(THREAD, JSON)) | JSON).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_any_output_of_py_spy_can_be_read_and_shown(output: bytes) -> None:
    parsed = parse_py_spy(output)
    assert encodable(StackDump(pid=7, method="py-spy", threads=parsed or ()))


LINES = st.sampled_from(PYSTACK.splitlines() + PYSTACK_INTERPRETERS.splitlines())


@given(output=st.binary() | st.lists(LINES | st.binary()).map(b"\n".join))
def test_any_output_of_pystack_can_be_read_and_shown(output: bytes) -> None:
    parsed = parse_pystack(output)
    assert parsed is None or parsed
    assert encodable(StackDump(pid=7, method="pystack", threads=parsed or ()))


@pytest.mark.parametrize(
    ("code", "errors", "reason", "transient"),
    [
        (1, b"Permission Denied: Try running again with elevated permissions", "SYS_PTRACE", False),
        (1, b"Error: x\n\nCaused by:\n  Operation not permitted (os error 1)", "yama", False),
        (1, b"No such process id: 7\n\nThe specified process cannot be traced.", "seccomp", False),
        (1, b"Error: Failed to find python version from target process", "not a Python", False),
        (1, b"Engine error: Could not determine python version from x", "not a Python", False),
        (1, b"Error: x. Check that the process is running.\nCaused by:", "7 is gone", False),
        (1, b"Engine error: No such process id: 7", "7 is gone", False),
        (
            1,
            b"Error: Failed to get stack traces\n\nCaused by:\n 0: Bad address (os error 14)",
            "failed with exit code 1: Error: Failed to get stack traces",
            True,
        ),
        (3, b"one\ntwo\n\n", "failed with exit code 3: two", False),
        (-11, b"", "crashed by signal 11 and said nothing", False),
    ],
)
def test_says_why_a_tool_failed(code: int, errors: bytes, reason: str, transient: bool) -> None:
    failure = explain(7, code, errors)
    assert reason in failure.reason
    assert failure.transient is transient


@given(code=st.integers(-64, 255), errors=st.binary())
def test_any_failure_has_a_reason_of_one_line(code: int, errors: bytes) -> None:
    failure = explain(7, code, errors)
    assert failure.reason
    assert len(failure.reason.splitlines()) == 1
