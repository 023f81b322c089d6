"""The targets that are steps, not bytes: Hypothesis's state machines, to be run at length."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import hypothesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from .engine_life import SCOPES, THREADS, WORKERS
from .engine_model import EngineAgainstModel
from .target import HERE
from .workers import Crowd

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MACHINES", "EngineMachine", "Machine", "run_at_length"]

_MS = 1_000_000
_workers = st.integers(0, WORKERS - 1)
_threads = st.sampled_from(THREADS)
_scopes = st.sampled_from(SCOPES)
# Around each of the engine's own times: 0.1 s (held up), 0.5 s (hold), 2 s (overslept).
_times = st.sampled_from((0, 1, 99, 100, 101, 500, 1000, 1500, 2500, 60_000)) | st.integers(0, 3000)
_nanoseconds = _times.map(lambda ms: ms * _MS)
_signals = st.sampled_from((9, 15, 0, -1))
_BATCH = 200
_STEPS = 100


class EngineMachine(RuleBasedStateMachine):
    """What may happen to an engine, in any order; see :mod:`fuzz.engine_model`."""

    crowd: Crowd | None = None
    """Shared by all: processes are what takes time."""

    def __init__(self) -> None:
        super().__init__()
        if EngineMachine.crowd is None:
            EngineMachine.crowd = Crowd(WORKERS)
        self.both = EngineAgainstModel(EngineMachine.crowd)

    def teardown(self) -> None:
        self.both.close()

    @classmethod
    def end(cls) -> None:
        """End the processes."""
        crowd, cls.crowd = cls.crowd, None
        if crowd is not None:
            crowd.close()

    @rule(
        worker=_workers,
        thread=_threads,
        scope=_scopes,
        after_ns=_nanoseconds,
        signal=_signals,
        how=st.sampled_from(("", "", "nested", "leave")),
        delay_ns=st.just(0) | _nanoseconds,
    )
    def acquire(  # noqa: PLR0917  # what a message says
        self,
        worker: int,
        thread: int | None,
        scope: str,
        after_ns: int,
        signal: int,
        how: str,
        delay_ns: int,
    ) -> None:
        self.both.acquire(
            worker,
            thread,
            scope,
            after_ns,
            signal,
            nested=how == "nested",
            leave=how == "leave",
            delay_ns=delay_ns,
        )

    @rule(worker=_workers, thread=_threads, scope=_scopes)
    def release(self, worker: int, thread: int | None, scope: str) -> None:
        self.both.release(worker, thread, scope)

    @rule(
        releases=st.lists(st.tuples(_workers, _threads, _scopes), max_size=4),
        passed_ns=_nanoseconds,
    )
    def release_late(self, releases: list[tuple[int, int | None, str]], passed_ns: int) -> None:
        self.both.release_late(releases, passed_ns)

    @rule(passed_ns=_nanoseconds)
    def wait(self, passed_ns: int) -> None:
        self.both.wait(passed_ns)

    @rule(seconds=st.floats(-1e6, 1e6))
    def step_wall_clock(self, seconds: float) -> None:
        self.both.step_wall_clock(seconds)

    @rule(worker=_workers)
    def clear(self, worker: int) -> None:
        self.both.clear(worker)

    @rule(worker=_workers)
    def exit(self, worker: int) -> None:
        self.both.exit(worker)


def _table() -> type[RuleBasedStateMachine]:
    # Not by import: its folder has the name of the package that it tests.
    path = HERE.parent / "timers" / "server" / "test_table.py"
    spec = importlib.util.spec_from_file_location("table_against_dictionary", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    machine = module.TableAgainstDictionary
    assert isinstance(machine, type)
    return machine


@dataclass(frozen=True, slots=True)
class Machine:
    """A state machine, and how to get rid of what it shares."""

    title: str
    make: Callable[[], type[RuleBasedStateMachine]]
    end: Callable[[], None] = lambda: None


MACHINES = {
    "table": Machine("table against a dictionary, at length", _table),
    "life": Machine(
        "engine against a model, by Hypothesis", lambda: EngineMachine, EngineMachine.end
    ),
}


def run_at_length(name: str, *, runs: int | None, seconds: float, seed: int) -> int:
    """Run a machine for ``runs`` lives of up to 100 steps, or for ``seconds``; return how many.

    What fails is raised by Hypothesis, cut down to the fewest steps that show it. The same ``seed``
    and ``runs`` do the same.
    """
    machine = MACHINES[name]
    kind = machine.make()
    done = 0
    give_up = time.monotonic() + seconds
    try:
        while (runs is None and time.monotonic() < give_up) or (runs is not None and done < runs):
            batch = _BATCH if runs is None else min(_BATCH, runs - done)
            run_state_machine_as_test(
                hypothesis.seed(seed + done)(kind),
                settings=settings(
                    max_examples=batch,
                    stateful_step_count=_STEPS,
                    deadline=None,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
            done += batch
    finally:
        machine.end()
    return done
