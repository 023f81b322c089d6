"""What is decided about a stuck worker, and the signals, on real processes."""

from __future__ import annotations

import math
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.children import alive, descriptors, waiting
from support.waiting import eventually
from timers import ReapPolicy
from timers.events import Outcome
from timers.linux import procfs
from timers.linux.process import Process
from timers.server.process_tree import ProcessTree
from timers.server.reaper import choose, escalation, retry_delay, terminate
from timers.server.table import Timer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# -- decisions ------------------------------------------------------------------------------------


def timers(*facts: tuple[int, int]) -> list[Timer[str]]:
    """Timers by (deadline, signal)."""
    return [
        Timer("w", f"{number}", deadline_ns=deadline, acquired_ns=0, signal=signal)
        for number, (deadline, signal) in enumerate(facts)
    ]


def test_the_first_deadline_with_a_signal_decides() -> None:
    expired = timers((30, 9), (20, 15), (10, 0), (25, 2))
    assert choose(expired) == (expired[1], 15)


def test_without_any_signal_the_first_deadline_is_only_observed() -> None:
    expired = timers((30, 0), (20, -3))
    assert choose(expired) == (expired[1], 0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(-64, 64)), min_size=1))
def test_the_choice(facts: list[tuple[int, int]]) -> None:
    expired = timers(*facts)
    chosen, sent = choose(expired)
    lethal = [timer for timer in expired if timer.signal > 0]
    assert chosen in expired
    assert sent == (chosen.signal if lethal else 0)
    assert chosen.deadline_ns == min(timer.deadline_ns for timer in lethal or expired)


@given(st.integers(1, 64), st.floats(0, 100))
def test_the_escalation_starts_with_what_was_asked_for_and_ends_with_kill(
    asked: int, grace: float
) -> None:
    steps = escalation(asked, grace)
    assert steps[0][0] == asked
    assert steps[-1][0] == signal.SIGKILL
    assert len(steps) == len({sent for sent, _ in steps}) <= 2
    assert all(wait >= grace for _, wait in steps)


def test_a_kill_is_given_time_to_work() -> None:
    assert escalation(signal.SIGKILL, 0) == [(9, 1.0)]
    assert escalation(signal.SIGTERM, 0) == [(15, 0), (9, 1.0)]
    assert escalation(signal.SIGTERM, 5) == [(15, 5), (9, 5)]


def test_retries_back_off_up_to_a_minute() -> None:
    assert [retry_delay(attempt) for attempt in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert retry_delay(10**6) == 60


@pytest.mark.parametrize("name", ["dump_timeout", "grace", "flush_timeout"])
@pytest.mark.parametrize("value", [-1, -0.001, math.nan, math.inf])
def test_a_policy_refuses_impossible_times(name: str, value: float) -> None:
    make: Callable[..., ReapPolicy] = ReapPolicy
    assert getattr(make(**{name: 0.5}), name) == 0.5
    with pytest.raises(ValueError, match=rf"ReapPolicy\.{name} must be at least 0.*{value!r}"):
        make(**{name: value})


# -- signals --------------------------------------------------------------------------------------


def test_a_worker_that_obeys() -> None:
    with waiting() as pid:
        process = Process(pid)
        assert terminate(process, signal.SIGTERM, grace=30) == (Outcome.KILLED, [])
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
        process.close()


def test_a_worker_that_ignores_the_signal_is_killed() -> None:
    with waiting(ignoring="TERM") as pid:
        process = Process(pid)
        assert terminate(process, signal.SIGTERM, grace=0.05) == (Outcome.ESCALATED, [])
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        process.close()


def test_a_stopped_worker_is_killed() -> None:
    with waiting() as pid:
        process = Process(pid)
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: (found := procfs.stat(pid)) and found.state == "T")
        assert terminate(process, signal.SIGTERM, grace=0.05) == (Outcome.ESCALATED, [])
        process.close()


def test_without_grace_a_kill_is_still_a_kill() -> None:
    with waiting() as pid:
        process = Process(pid)
        assert terminate(process, signal.SIGKILL, grace=0) == (Outcome.KILLED, [])
        process.close()


def test_a_worker_that_has_ended_is_sent_nothing() -> None:
    with waiting() as pid:
        process = Process(pid)
        os.kill(pid, signal.SIGKILL)
        assert process.exited(30)
        assert terminate(process, signal.SIGTERM, grace=30) == (Outcome.ALREADY_GONE, [])
        process.close()


class Stubborn(Process):
    """A real process whose end, or whose permission, is withheld."""

    def __init__(self, pid: int, *, ends_before: int = 0, refuses: bool = False) -> None:
        super().__init__(pid)
        self.sent: list[int] = []
        self._ends_before = ends_before
        self._refuses = refuses

    def exited(self, timeout: float = 0.0) -> bool:
        del timeout
        return False

    def send(self, signal: int) -> None:
        if self._refuses:
            raise PermissionError
        self.sent.append(signal)
        if signal == self._ends_before:
            raise ProcessLookupError


def test_a_worker_that_outlives_even_sigkill() -> None:
    with waiting() as pid:
        process = Stubborn(pid)
        assert terminate(process, signal.SIGTERM, grace=0) == (Outcome.STILL_ALIVE, [])
        assert process.sent == [signal.SIGTERM, signal.SIGKILL]
        process.close()


def test_a_worker_that_may_not_be_signalled() -> None:
    with waiting() as pid:
        process = Stubborn(pid, refuses=True)
        assert terminate(process, signal.SIGTERM, grace=0) == (Outcome.NOT_PERMITTED, [])
        assert alive(pid)
        process.close()


def test_a_worker_that_ends_just_before_the_signal() -> None:
    with waiting() as pid:
        process = Stubborn(pid, ends_before=signal.SIGTERM)
        assert terminate(process, signal.SIGTERM, grace=0)[0] is Outcome.ALREADY_GONE
        process.close()


def test_a_worker_that_ends_between_the_signal_and_the_next_was_killed_by_the_first() -> None:
    with waiting() as pid:
        process = Stubborn(pid, ends_before=signal.SIGKILL)
        assert terminate(process, signal.SIGTERM, grace=0)[0] is Outcome.KILLED
        process.close()


# -- its descendants ------------------------------------------------------------------------------


@pytest.fixture
def family() -> Iterator[tuple[int, list[int]]]:
    """A shell whose child is a shell whose child waits: the pids, outermost first."""
    inner = "sh -c 'sleep 1000 & echo $!; wait' & echo $!; wait"
    with subprocess.Popen(
        ["sh", "-c", inner], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        descendants = sorted(int(process.stdout.readline()) for _ in range(2))
        held = [Process(pid) for pid in descendants]
        yield process.pid, descendants
        for one in held:
            if not one.exited():
                one.send(signal.SIGKILL)
            one.close()
        process.kill()


def gone(pid: int) -> bool:
    found = procfs.stat(pid)
    return found is None or found.state in "ZX"


def test_descendants_are_left_alone_unless_asked_for(family: tuple[int, list[int]]) -> None:
    pid, descendants = family
    process = Process(pid)
    assert terminate(process, signal.SIGKILL, grace=30) == (Outcome.KILLED, [])
    assert not any(gone(descendant) for descendant in descendants)
    process.close()


def test_the_whole_tree_is_killed_when_asked_for(family: tuple[int, list[int]]) -> None:
    pid, descendants = family
    process = Process(pid)
    before = descriptors()
    outcome, killed = terminate(process, signal.SIGKILL, grace=30, tree=ProcessTree())
    assert (outcome, sorted(killed)) == (Outcome.KILLED, descendants)
    eventually(lambda: all(gone(descendant) for descendant in descendants))
    assert descriptors() == before
    process.close()


def test_the_tree_of_a_worker_that_may_not_be_signalled_is_left_alone(
    family: tuple[int, list[int]],
) -> None:
    pid, descendants = family
    process = Stubborn(pid, refuses=True)
    before = descriptors()
    outcome, killed = terminate(process, signal.SIGTERM, grace=0, tree=ProcessTree())
    assert (outcome, killed) == (Outcome.NOT_PERMITTED, [])
    assert not any(gone(descendant) for descendant in descendants)
    assert descriptors() == before
    process.close()


def test_the_tree_of_a_worker_that_outlives_sigkill_is_killed(
    family: tuple[int, list[int]],
) -> None:
    pid, descendants = family
    process = Stubborn(pid)
    before = descriptors()
    outcome, killed = terminate(process, signal.SIGTERM, grace=0, tree=ProcessTree())
    assert (outcome, sorted(killed)) == (Outcome.STILL_ALIVE, descendants)
    assert process.sent == [signal.SIGTERM, signal.SIGKILL]
    eventually(lambda: all(gone(descendant) for descendant in descendants))
    assert descriptors() == before
    process.close()


def test_the_children_of_whoever_has_the_pid_now_are_not_taken_for_its_own(
    family: tuple[int, list[int]],
) -> None:
    # A process that has ended says nothing about the pid that it had.
    pid, descendants = family

    class Ended(Process):
        def exited(self, timeout: float = 0.0) -> bool:
            del timeout
            return self.ended

        ended = False

    process = Ended(pid)
    tree = ProcessTree()
    tree.collect(process)
    assert sorted(tree.found) == descendants
    tree.close()
    process.ended = True
    tree = ProcessTree()
    tree.collect(process)
    assert tree.found == {}
    process.close()
