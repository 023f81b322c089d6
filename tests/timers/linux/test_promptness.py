"""A thread that runs at once: for as long as it uses little, and where the system lets it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from support.real_time import require_real_time
from support.waiting import eventually
from timers.linux import promptness
from timers.linux.promptness import Promptness

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND = 1_000_000_000
PROMPT = os.SCHED_RR | os.SCHED_RESET_ON_FORK
ORDINARY = f"{os.SCHED_OTHER} 0"
POLICY = "import os; print(os.sched_getscheduler(0), os.nice(0))"


def in_thread(work: Callable[[], Any]) -> Any:
    """Return what ``work`` returns, on a thread whose policy is its own affair."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def policy_of_a_child() -> str:
    return subprocess.check_output([sys.executable, "-c", POLICY], text=True).strip()


def burn(nanoseconds: int) -> None:
    until = time.thread_time_ns() + nanoseconds
    while time.thread_time_ns() < until:
        pass


# -- for real --------------------------------------------------------------------------------------


def test_it_is_the_thread_that_is_prompt_and_nothing_that_it_starts() -> None:
    require_real_time()
    one = Promptness()

    def work() -> tuple[int, int, str]:
        one.begin()
        return (
            os.sched_getscheduler(0),
            in_thread(lambda: os.sched_getscheduler(0)),
            (policy_of_a_child()),
        )

    assert in_thread(work) == (PROMPT, os.SCHED_OTHER, ORDINARY)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_what_it_is_handed_on_to_is_prompt_within_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    require_real_time()
    monkeypatch.setattr(promptness, "_OTHERS_SECONDS", 0.02)
    one = Promptness()
    found: list[Any] = []

    def other() -> None:
        found.append(in_thread(lambda: os.sched_getscheduler(0)))
        one.guard()
        found.append(os.sched_getscheduler(0))
        found.append(policy_of_a_child())
        burn(60_000_000)  # which the kernel counts in ticks of up to 10 ms
        eventually(lambda: os.sched_getscheduler(0) != PROMPT, "it is an ordinary one again")
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def work() -> None:
        one.begin()
        thread = threading.Thread(target=other)
        with one.handed_on():
            thread.start()
        assert os.sched_getscheduler(0) == PROMPT
        while thread.is_alive():
            one.account()
            thread.join(0.01)
        assert one.others == []

    in_thread(work)
    assert found == [os.SCHED_RR, PROMPT, ORDINARY, -10]


def test_another_thread_that_does_the_same_work_is_left_alone() -> None:
    require_real_time()
    one = Promptness()
    in_thread(one.begin)
    assert one.is_prompt
    one.account()
    with one.handed_on():
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_thread_that_ends_early_is_forgotten() -> None:
    require_real_time()
    one = Promptness()

    def work() -> None:
        one.begin()
        thread = threading.Thread(target=one.guard)
        with one.handed_on():
            thread.start()
        thread.join()
        assert one.others == [thread.native_id]
        one.account()
        assert one.others == []
        assert one.is_prompt

    in_thread(work)


UNPRIVILEGED = """
import os, sys, threading
from timers.linux.promptness import Promptness
one = Promptness()
if sys.argv[1] == "prompt":
    one.begin()
os.setgroups([]); os.setgid(65534); os.setuid(65534)
one.begin()
print(one.is_prompt, os.sched_getscheduler(0) == (os.SCHED_RR | os.SCHED_RESET_ON_FORK))
def other():
    one.guard()
    print(os.sched_getscheduler(0) == os.SCHED_OTHER)
thread = threading.Thread(target=other)
with one.handed_on():
    thread.start()
thread.join()
print(one.is_prompt, one.others, flush=True)
os._exit(0)  # what measures coverage would write as nobody
"""


@pytest.mark.parametrize(
    ("before", "expected"),
    [("prompt", "True True\nTrue\nTrue []\n"), ("ordinary", "False False\nTrue\nFalse []\n")],
)
def test_an_ordinary_user(before: str, expected: str) -> None:
    """Without CAP_SYS_NICE what it starts is ordinary in any case, and it stays what it is."""
    require_real_time()
    found = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, before], text=True, capture_output=True, check=False
    )
    assert (found.stdout, found.stderr) == (expected, "")


# -- what it uses ----------------------------------------------------------------------------------


class Simulated:
    """Clocks, and a scheduler that notes what it is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.used = 5 * SECOND
        self.policies: list[int] = []
        self.refuses = False
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.now)
        monkeypatch.setattr(time, "thread_time_ns", lambda: self.used)
        monkeypatch.setattr(promptness, "_schedule", self._schedule)
        monkeypatch.setattr(promptness, "_favour", lambda _thread: None)
        monkeypatch.setattr(os, "getpriority", lambda _which, _thread: 0)

    def _schedule(self, _thread: int, policy: int) -> None:
        if self.refuses:
            raise PermissionError
        self.policies.append(policy & ~os.SCHED_RESET_ON_FORK)

    def passes(self, one: Promptness, seconds: float, used: float) -> bool:
        self.now += int(seconds * SECOND)
        self.used += int(used * SECOND)
        one.account()
        return one.is_prompt


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Simulated:
    return Simulated(monkeypatch)


def test_one_that_uses_little_stays_prompt_for_ever(system: Simulated) -> None:
    one = Promptness()
    one.begin()
    one.begin()
    assert all(system.passes(one, 1.0, 0.04) for _ in range(1000))
    assert system.policies == [os.SCHED_RR]


def test_one_that_uses_more_than_it_has_saved_makes_up_for_it_first(system: Simulated) -> None:
    one = Promptness()
    one.begin()
    assert system.passes(one, 1.0, 0.9)  # many workers begin at once
    assert not system.passes(one, 1.0, 0.9)
    assert not any(system.passes(one, 1.0, 0.3) for _ in range(5))
    waited = 0
    while not system.passes(one, 1.0, 0.0):
        waited += 1
        assert waited < 100
    assert waited > 10
    assert system.policies == [os.SCHED_RR, os.SCHED_OTHER, os.SCHED_RR]


def test_where_it_may_not_nothing_changes_and_nothing_is_tried_again(system: Simulated) -> None:
    system.refuses = True
    one = Promptness()
    one.begin()
    system.refuses = False
    assert not system.passes(one, 10.0, 0.0)
    with one.handed_on():
        one.guard()
    assert (system.policies, one.others) == ([], [])


@pytest.mark.parametrize(
    ("question", "answer"), [("sched_getscheduler", os.SCHED_BATCH), ("getpriority", 5)]
)
def test_what_somebody_chose_for_the_thread_is_kept(
    system: Simulated, monkeypatch: pytest.MonkeyPatch, question: str, answer: int
) -> None:
    monkeypatch.setattr(os, question, lambda *_: answer)
    one = Promptness()
    one.begin()
    assert not system.passes(one, 10.0, 0.0)
    assert system.policies == []


def test_it_can_be_turned_off(system: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMERS_REAL_TIME", "OFF")
    one = Promptness()
    one.begin()
    assert not system.passes(one, 10.0, 0.0)
    assert system.policies == []


def test_elsewhere_than_on_linux_it_does_nothing(
    system: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getscheduler")
    one = Promptness()
    one.begin()
    assert not system.passes(one, 10.0, 0.0)
    assert system.policies == []
