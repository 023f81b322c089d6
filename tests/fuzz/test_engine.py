"""The engine against the model; at any length by ``python -m tests.fuzz life``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from fuzz.engine_model import EngineAgainstModel
from fuzz.machines import EngineMachine, run_at_length
from fuzz.workers import Crowd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MS = 1_000_000


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    crowd = Crowd(2)
    yield crowd
    crowd.close()


@pytest.fixture
def both(crowd: Crowd) -> Iterator[EngineAgainstModel]:
    both = EngineAgainstModel(crowd)
    yield both
    both.close()


def test_in_any_order() -> None:
    try:
        run_state_machine_as_test(
            EngineMachine,
            settings=settings(
                max_examples=40,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                database=None,
            ),
        )
        assert EngineMachine.crowd is not None
    finally:
        EngineMachine.end()


def test_the_table_at_length() -> None:
    assert run_at_length("table", runs=3, seconds=0, seed=1) == 3


WRONG: list[Callable[[EngineAgainstModel], None]] = [
    lambda both: both._rig.release(both._crowd.pid(0), "x"),  # a release that the model knows not
    lambda both: both._rig.pass_time(2),  # expired, and the model thinks it runs
    lambda both: both._rig.acquire(both._crowd.pid(0), "y", after=1),
    lambda both: both._rig.acquire(both._crowd.pid(0), "x", after=9),
    lambda both: setattr(both._rig.watchdog.statistics.scopes["x"], "acquires", 2),
    lambda both: both._rig.watchdog.clear([both._crowd.pid(0)]),
]


@pytest.mark.parametrize("wrong", WRONG)
def test_the_model_notices(
    both: EngineAgainstModel, wrong: Callable[[EngineAgainstModel], None]
) -> None:
    both.acquire(0, 1, "x", 1000 * MS)
    both.check()
    wrong(both)
    with pytest.raises(AssertionError):
        both.check()


def test_a_release_between_the_deadline_and_the_look_counts(both: EngineAgainstModel) -> None:
    both.acquire(0, 1, "x", 1000 * MS)
    both.acquire(1, 1, "x", 1000 * MS)
    both.release_late([(0, 1, "x")], 1200 * MS)  # compares: one released, one expired and reaped
    assert [pid for pid, _ in both._rig.reaped] == [both._crowd.pid(1)]
