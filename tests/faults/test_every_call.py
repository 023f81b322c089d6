"""Something raises in the middle of a reap, at each call of it in turn, and the reap is done.

A reap is played on a bench as often as ``timers`` makes calls in it. Each time another call raises,
once: on the server's thread, which goes on as its loop does, on the thread of the reap, or on that
of the dump. Of each place in the code that calls something the first call raises, and in the main
scenarios the last one; with ``TIMERS_LONG_TESTS`` every one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from support.children import alive, dropped
from support.long_tests import LONG
from support.raising import Call, Raising
from support.rig import Rig
from timers import ReapPolicy
from timers.events import ReapFailed, TimerExpired, WorkerExited, WorkerKilled
from timers.transport.wire import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    # A thread that fails has to say so: it does to threading.excepthook, and is made up for.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    # Where nothing can be raised (callbacks of weak references) nothing is.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TURNS = 7
"""So many steps, with 2 seconds of the clock for each, are enough when nothing fails."""
MORE_TURNS = 8
"""And with so many more it has to be done whatever failed."""


SPARED = {
    # What an overridden _reap_worker raises counts as reaped: torch's rule.
    "Rig._note_reap",
    # What is lost between read(2) and the first look at it cannot be had again.
    *("FakeSource.read", "Watchdog.apply", "Intake.apply"),
}
"""Calls that do not raise here."""


class InjectedError(Exception):
    """What a call raises that works otherwise."""


def sleeper(*ignored: int) -> int:
    """A process that waits."""
    silent = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    command = ["sleep", "1000"]
    return os.posix_spawnp(command[0], command, {}, file_actions=silent, setsigmask=ignored)


def end(pid: int, number: int = signal.SIGKILL) -> None:
    """Kill it, and wait until it has ended; it is not reaped by this."""
    os.kill(pid, number)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@dataclass
class Bench:
    """One reap with one failure in it."""

    raising: Raising
    options: dict[str, Any] = field(default_factory=dict)
    ignored: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.workers: list[int] = []
        self.other = self.worker()
        self.rig = Rig(**self.options)
        self.rig.acquire(self.other, "other", after=90)

    def worker(self) -> int:
        self.workers.append(sleeper(*self.ignored))
        return self.workers[-1]

    def turn(self, seconds: float) -> None:
        """What the server's loop does: a step, and whatever it raises is no reason to end."""
        self.rig.clock.advance(seconds)
        with contextlib.suppress(InjectedError, MemoryError):
            self.rig.step()
        for thread in threading.enumerate():
            if thread.name.startswith(("timers-reap", "timers-dump")):
                thread.join(60)

    def turns(self) -> None:
        """As many as may be needed."""
        with self.raising.armed():
            for _ in range(TURNS):
                self.turn(2.0)
        for _ in range(MORE_TURNS if self.raising.raised else 0):
            self.turn(2.0)

    def assert_cleared(self, pid: int, scope: str) -> None:
        """Nothing is kept of a worker, and that it ended was told."""
        assert not alive(pid), "it was not reaped"
        found = self.rig.watchdog.statistics.scopes[scope]
        assert (found.active, found.overdue) == (0, 0)
        assert pid not in [worker.pid for worker in self.rig.watchdog.known_workers()]
        observer = self.rig.observer
        ends = [event.worker.pid for event in observer.of(WorkerKilled)]
        ends += [event.worker.pid for event in observer.of(WorkerExited)]
        if self.raising.raised is None or not self.raising.raised.caller.endswith(".emit"):
            assert pid in ends, "its end was not told"

    def assert_goes_on(self) -> None:
        """The other worker was left alone, and is reaped when its own time has come."""
        assert alive(self.other)
        found = self.rig.watchdog.statistics
        assert found.scopes["other"].active == 1
        assert found.workers == 1
        self.rig.clock.advance(90)
        for _ in range(3):
            self.turn(1.0)
        self.assert_cleared(self.other, "other")
        assert found.workers == 0
        assert list(self.rig.watchdog.state.table) == []

    def close(self) -> None:
        self.rig.close()
        for pid in self.workers:
            dropped(pid)


def killed(bench: Bench) -> None:
    worker = bench.worker()
    bench.rig.acquire(worker, "x", after=1.0)
    bench.turns()
    bench.assert_cleared(worker, "x")


def escalated(bench: Bench) -> None:
    """It does not heed the first signal."""
    worker = bench.worker()
    bench.rig.acquire(worker, "x", after=1.0, signal=signal.SIGTERM)
    bench.turns()
    bench.assert_cleared(worker, "x")


def together(bench: Bench) -> None:
    """Two expire at once, one of them with two timers."""
    first, second = bench.worker(), bench.worker()
    bench.rig.acquire(first, "x", after=1.0)
    bench.rig.acquire(second, "y", after=1.0)
    bench.rig.acquire(second, "z", after=1.5)
    bench.turns()
    bench.assert_cleared(first, "x")
    bench.assert_cleared(second, "y")
    assert bench.rig.watchdog.statistics.scopes["z"].active == 0, "one of its timers was left"


def tried_again(bench: Bench) -> None:
    """The first attempts fail, as they do with a process in uninterruptible sleep."""
    worker = bench.worker()
    bench.rig.acquire(worker, "x", after=1.0)
    bench.turns()
    bench.assert_cleared(worker, "x")
    assert bench.rig.observer.of(ReapFailed)


def observed(bench: Bench) -> None:
    """It has no signal: it stays, and so does its timer until it is released."""
    worker = bench.worker()
    bench.rig.acquire(worker, "x", after=1.0, signal=0)
    bench.turns()
    assert alive(worker)
    found = bench.rig.watchdog.statistics.scopes["x"]
    assert (found.active, found.overdue) == (1, 1)
    bench.rig.release(worker, "x")
    assert (found.active, found.overdue) == (0, 0)
    end(worker)
    bench.turn(1.0)
    bench.assert_cleared(worker, "x")


def exited(bench: Bench) -> None:
    """It ends by itself while its timer runs."""
    worker = bench.worker()
    bench.rig.acquire(worker, "x", after=3600)
    end(worker)
    bench.turns()
    bench.assert_cleared(worker, "x")


def released(bench: Bench) -> None:
    """The step that finds one stuck reads the release of another, whose time is up as well."""
    worker, last = bench.worker(), bench.worker()
    bench.rig.acquire(worker, "x", after=1.0)
    bench.rig.acquire(last, "y", after=1.0)
    bench.rig.source.put(Message(last, "y", -1, 0, thread=1))
    bench.turns()
    bench.assert_cleared(worker, "x")
    assert alive(last), "it had released its timer"
    found = bench.rig.watchdog.statistics
    assert found.scopes["y"].active == 0
    assert found.rejected["internal_error"] == 0
    end(last)
    bench.turn(1.0)


def two_refusals() -> Callable[..., bool]:
    """A reap that fails twice before the real one is done."""
    left = [False, False]

    def reap(pid: int, number: int) -> bool:
        if left:
            return left.pop()
        end(pid, number)
        return True

    return reap


PROMPT = ReapPolicy(grace=0.0)
MAIN = ("killed", "exited", "released")
SCENARIOS: dict[str, tuple[Callable[[Bench], None], Callable[[], dict[str, Any]], tuple[int, ...]]]
SCENARIOS = {
    "killed": (killed, dict, ()),
    "escalated": (escalated, lambda: {"policy": PROMPT}, (signal.SIGTERM,)),
    "together": (together, dict, ()),
    "tried-again": (tried_again, lambda: {"reap": two_refusals()}, ()),
    "observed": (observed, dict, ()),
    "exited": (exited, dict, ()),
    "released": (released, dict, ()),
}


def numbers(calls: list[Call], *, is_main: bool) -> list[int]:
    """Which of these calls are to raise, counted from 1."""
    if LONG:
        return list(range(1, len(calls) + 1))
    last = {call: number for number, call in enumerate(calls, 1)} if is_main else {}
    first = {call: len(calls) - number for number, call in enumerate(reversed(calls))}
    return sorted({*first.values(), *last.values()})


def failures(scenario: str, error: Callable[[], BaseException], *, after: bool) -> list[str]:
    """Play it once for each call of each thread; say what came out wrong, and where."""
    play, options, ignored = SCENARIOS[scenario]
    wrong = []

    def run(raising: Raising) -> None:
        bench = Bench(raising, options(), ignored)
        try:
            play(bench)
            bench.assert_goes_on()
        except AssertionError as found:
            wrong.append(f"{raising.raised}: {str(found).partition(chr(10))[0]}")
        finally:
            bench.close()

    for role in ("server", "reap", "dump"):
        counting = Raising(role, 0, error, after=after, spared=SPARED)
        run(counting)
        assert counting.calls or scenario == "exited", f"no calls on the thread of the {role}"
        for number in numbers(counting.calls, is_main=scenario in MAIN):
            run(Raising(role, number, error, after=after, spared=SPARED))
    return wrong


def cases() -> Iterator[Any]:
    """Every scenario before each call; after it, where nothing else is asked for, the main ones."""
    for name in SCENARIOS:
        yield pytest.param(name, InjectedError, False, id=f"{name}-InjectedError-before")
        if LONG or name in MAIN:
            yield pytest.param(name, InjectedError, True, id=f"{name}-InjectedError-after")
    yield pytest.param("together", MemoryError, False, id="together-MemoryError-before")


@pytest.mark.parametrize(("scenario", "error", "after"), list(cases()))
def test_whichever_call_raises(
    scenario: str, error: Callable[[], BaseException], after: bool
) -> None:
    assert failures(scenario, error, after=after) == []


def test_without_a_failure_each_of_them_is_done_once() -> None:
    """The bench itself: no call raises, and nothing is told twice."""
    for play, options, ignored in SCENARIOS.values():
        bench = Bench(Raising("server", 0, InjectedError), options(), ignored)
        try:
            play(bench)
            assert len(bench.raising.calls) > 10
            expired = [event.timer.scope_id for event in bench.rig.observer.of(TimerExpired)]
            assert len(set(expired)) == len(expired)
            bench.assert_goes_on()
        finally:
            bench.close()
