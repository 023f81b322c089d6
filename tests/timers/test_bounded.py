"""What may never return is called for a bounded time."""

from __future__ import annotations

import threading
import time

import pytest

from timers.bounded import call_until, left


def soon(seconds: float) -> float:
    return time.monotonic() + seconds


def test_what_is_left_is_never_less_than_nothing() -> None:
    assert 50 < left(soon(60)) <= 60
    assert left(soon(-1)) == 0


def test_a_step_returns_what_it_returns() -> None:
    assert call_until(soon(30), lambda: 42, "step") == 42
    assert call_until(soon(30), lambda: None, "step") is None


@pytest.mark.parametrize("error", [KeyError("mine"), SystemExit(3), KeyboardInterrupt()])
def test_a_step_raises_what_it_raises(error: BaseException) -> None:
    def step() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        call_until(soon(30), step, "step")
    assert raised.value is error


def test_a_step_that_hangs_is_left_behind() -> None:
    release, left = threading.Event(), threading.Event()

    def step() -> None:
        release.wait()
        left.set()

    with pytest.raises(TimeoutError, match=r"not finished within 0\.0\d* s"):
        call_until(soon(0.01), step, "step that hangs")
    (thread,) = [t for t in threading.enumerate() if t.name == "step that hangs"]
    assert thread.daemon
    release.set()
    thread.join()
    assert left.is_set()
