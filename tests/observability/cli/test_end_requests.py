from __future__ import annotations

import math

import pytest

from observability.cli._end_requests import EndRequests


def test_the_second_kill_sets_a_deadline_and_the_third_is_one() -> None:
    requests = EndRequests(grace=30.0)
    requests.add(100.0, from_terminal=False)
    assert requests.deadline == math.inf
    requests.add(200.0, from_terminal=False)
    assert requests.deadline == 230.0
    requests.add(201.0, from_terminal=False)
    assert requests.deadline == 201.0
    requests.add(202.0, from_terminal=False)
    assert requests.deadline == 201.0


def test_two_at_the_same_time_are_one() -> None:
    requests = EndRequests(grace=30.0)
    requests.add(100.0, from_terminal=False)
    requests.add(100.1, from_terminal=False)
    assert requests.deadline == math.inf
    requests.add(101.0, from_terminal=False)
    assert requests.deadline == 131.0


def test_only_the_third_ctrl_c_in_short_succession_kills() -> None:
    requests = EndRequests(grace=30.0)
    assert not requests.add(100.0, from_terminal=True)
    assert requests.add(101.0, from_terminal=True)
    assert requests.deadline == math.inf
    assert not requests.add(102.0, from_terminal=True)
    assert requests.deadline == 102.0


def test_ctrl_c_now_and_then_means_something_else() -> None:
    requests = EndRequests(grace=30.0)
    for minute in range(10):
        assert not requests.add(60.0 * minute, from_terminal=True)
    assert requests.deadline == math.inf


@pytest.mark.parametrize(
    ("from_terminal", "later", "explained"),
    [(False, 1.0, True), (False, 3600.0, True), (True, 1.0, True), (True, 3600.0, False)],
)
def test_why_a_command_ended(from_terminal: bool, later: float, explained: bool) -> None:
    requests = EndRequests(grace=30.0)
    assert not requests.explain(50.0)
    requests.add(100.0, from_terminal=from_terminal)
    assert requests.explain(100.0 + later) is explained
