"""Deadlines that somebody chose for automatic blocks."""

from __future__ import annotations

import math

import pytest

from timers.auto import auto_environment
from timers.auto._chosen import AFTER_VARIABLE, chosen_seconds


def test_a_scope_comes_before_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    made = auto_environment({}, "all", kill=False, after={"task": 60, "Trainer.step": 0.5})
    monkeypatch.setenv(AFTER_VARIABLE, made[AFTER_VARIABLE])
    assert chosen_seconds("Trainer.step", "task") == 0.5
    assert chosen_seconds("f", "task") == 60
    assert chosen_seconds("f", None) is None
    assert chosen_seconds("step", "step") is None


def test_without_any_there_is_no_variable() -> None:
    assert AFTER_VARIABLE not in auto_environment({}, "all", kill=False)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 10**9, True])
def test_what_is_no_deadline_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="the deadline of 'task' must be more than 0 seconds"):
        auto_environment({}, "all", kill=False, after={"task": seconds})


@pytest.mark.parametrize(
    "text", ["", "[", "[1]", '{"task": "x"}', '{"task": -1}', '{"task": true}']
)
def test_what_is_no_deadline_is_not_used(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(AFTER_VARIABLE, text)
    assert chosen_seconds("f", "task") is None
