"""The engine next to a few dictionaries that do the same the slow way.

What a server promises of its timers, whatever comes in whatever order: every acquire, release,
expiry and reap is counted once; nothing expires early; what is due expires; a release that was sent
before the server looked at its deadline counts. Workers are real processes, the clock is moved by
hand, and killing a worker is only noted.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from support.rig import Rig
from timers.events import Outcome, TimerExpired, TimerReleased, WorkerExited, WorkerKilled
from timers.transport.wire import Message

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .workers import Crowd

__all__ = ["EngineAgainstModel"]

_NS = 1_000_000_000
_HELD_UP_NS = _NS // 10
_GRACE_NS = _NS // 2
"""What an acquire that was held up on its way gets, see ``timers/server/watchdog.py``."""
_TORCH_NS = 3_000
"""A moment of the wall clock, a floating-point number of seconds, is not exact to a nanosecond:
that of a request without a monotonic deadline shall not coincide with a moment at which we look."""

Key = tuple[int, int | None, str]


@dataclass(slots=True)
class _Timer:
    key: Key
    deadline_ns: int
    acquired_ns: int
    signal: int
    started_ns: int
    outer: _Timer | None = None
    expired: bool = False


@dataclass(slots=True)
class _Counts:
    acquires: int = 0
    releases: int = 0
    expirations: int = 0
    reaps: int = 0
    durations: list[float] = field(default_factory=list)


class EngineAgainstModel:
    """Both, and what can happen to them. Each step compares afterwards.

    :param crowd: gives the workers; they are numbered from 0.
    """

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._rig = Rig(reap=lambda pid, signal: True)  # noqa: ARG005  # torch's signature
        self._timers: dict[Key, _Timer] = {}
        self._order: list[_Timer] = []
        self._counts: defaultdict[str, _Counts] = defaultdict(_Counts)
        self._known: set[int] = set()
        self._reaped: list[tuple[int, int]] = []
        self._exits: list[tuple[int, int]] = []
        self._requests = 0
        self._now = self._rig.clock.monotonic_ns()

    def close(self) -> None:
        """Give back what the engine holds."""
        self._rig.settle()
        self._rig.close()

    # -- what a worker does -------------------------------------------------------------------

    def acquire(  # what a message says
        self,
        worker: int,
        thread: int | None,
        scope: str,
        after_ns: int,
        signal: int = 9,
        *,
        nested: bool = False,
        leave: bool = False,
        delay_ns: int = 0,
    ) -> None:
        """A block is entered, restarted or (``leave``) left for the one around it.

        :param delay_ns: how long the message is under way.
        """
        sent_ns = self._now
        if thread is None:
            after_ns += _TORCH_NS
        message = self._message(worker, thread, scope, after_ns, signal, nested=nested, leave=leave)
        self._advance(delay_ns)
        self._apply(message)
        deadline_ns = sent_ns + after_ns
        if thread is None:
            pass  # torch's: a moment of the wall clock, whenever it arrives
        elif after_ns > 0 and self._now - deadline_ns > _HELD_UP_NS:
            deadline_ns = self._now + _GRACE_NS
        acquired_ns = deadline_ns - after_ns
        if thread is None:
            acquired_ns = min(deadline_ns, self._now)
        self._enter(
            _Timer(
                (self._crowd.pid(worker), thread, scope),
                deadline_ns,
                acquired_ns,
                signal,
                acquired_ns,
            ),
            nested=nested,
            leave=leave,
        )
        self.check()

    def release(self, worker: int, thread: int | None, scope: str) -> None:
        """A block is left."""
        self._apply(self._release_message(worker, thread, scope))
        self._leave(worker, thread, scope)
        self.check()

    def release_late(self, releases: Iterable[tuple[int, int | None, str]], passed_ns: int) -> None:
        """Releases are sent, time passes, and only then the server looks: they count all the same.

        :param passed_ns: at most 1.5 seconds; after a longer sleep the engine holds back for a
            while, since it takes it for one of its own.
        """
        due = [timer for timer in self._timers.values() if not timer.expired]
        if any(self._now - timer.deadline_ns > 0 for timer in due):
            self.look()
        sent = list(releases)
        for each in sent:
            self._rig.source.put(self._release_message(*each))
            self._known.add(self._crowd.pid(each[0]))
            self._requests += 1
        self._advance(min(passed_ns, 3 * _NS // 2))
        self._rig.step()
        for each in sent:
            self._leave(*each)
        self._expire()
        self._rig.settle()
        self.check()

    def exit(self, worker: int) -> None:
        """A worker ends by itself; another takes its number."""
        pid = self._crowd.pid(worker)
        held = [key for key in self._timers if key[0] == pid]
        self.look()  # the step to come takes up deadlines, too, and they are another's subject
        held = [key for key in self._timers if key[0] == pid]
        self._crowd.replace(worker)
        self._rig.step()
        for key in held:
            del self._timers[key]
        if pid in self._known:
            self._known.remove(pid)
            self._exits.append((pid, len(held)))
        self.check()

    # -- what else happens --------------------------------------------------------------------

    def wait(self, passed_ns: int) -> None:
        """Time passes, and the server looks at its deadlines."""
        self._advance(passed_ns)
        self.look()

    def look(self) -> None:
        """The server looks at its deadlines."""
        self._rig.watchdog.sweep()
        self._expire()
        self._rig.settle()
        self.check()

    def step_wall_clock(self, seconds: float) -> None:
        """Somebody sets the wall clock: that changes nothing for timers that run."""
        self._rig.clock.step_wall(seconds)
        self.check()

    def clear(self, worker: int) -> None:
        """Every timer of a worker is dropped."""
        pid = self._crowd.pid(worker)
        self._rig.watchdog.clear([pid])
        for key in [key for key in self._timers if key[0] == pid]:
            del self._timers[key]
        self.check()

    # -- the model ----------------------------------------------------------------------------

    def _message(
        self,
        worker: int,
        thread: int | None,
        scope: str,
        after_ns: int,
        signal: int,
        *,
        nested: bool,
        leave: bool,
    ) -> Message:
        pid = self._crowd.pid(worker)
        expiration_time = self._rig.clock.time() + after_ns / _NS
        if thread is None:
            return Message(pid, scope, expiration_time, signal, nested=nested, leave=leave)
        return Message(
            pid,
            scope,
            expiration_time,
            signal,
            thread=thread,
            deadline_ns=self._now + after_ns,
            after=after_ns / _NS,
            nested=nested,
            leave=leave,
        )

    def _release_message(self, worker: int, thread: int | None, scope: str) -> Message:
        return Message(self._crowd.pid(worker), scope, -1, 0, thread=thread)

    def _apply(self, message: Message) -> None:
        self._rig.watchdog.apply([message])
        self._known.add(message.pid)
        self._requests += 1

    def _advance(self, passed_ns: int) -> None:
        self._rig.clock.advance(passed_ns / _NS)
        self._now = self._rig.clock.monotonic_ns()

    def _enter(self, timer: _Timer, *, nested: bool, leave: bool) -> None:
        counts = self._counts[timer.key[2]]
        before = self._timers.pop(timer.key, None)
        if before is not None:
            if nested:
                timer.outer = before
            elif leave:
                counts.durations.append(self._age(before))
                if before.outer is not None:
                    timer.started_ns, timer.outer = before.outer.started_ns, before.outer.outer
            else:
                timer.started_ns, timer.outer = before.started_ns, before.outer
        counts.releases += leave
        counts.acquires += not leave
        self._timers[timer.key] = timer
        self._order.append(timer)

    def _leave(self, worker: int, thread: int | None, scope: str) -> None:
        counts = self._counts[scope]
        counts.releases += 1
        timer = self._timers.pop((self._crowd.pid(worker), thread, scope), None)
        if timer is not None:
            counts.durations.append(self._age(timer))

    def _age(self, timer: _Timer) -> float:
        # A short block that was held up on its way begins, by its countdown, only later.
        return max(0, self._now - timer.started_ns) / _NS

    def _expire(self) -> None:
        due = [
            timer
            for timer in self._order
            if self._timers.get(timer.key) is timer
            and not timer.expired
            and timer.deadline_ns <= self._now
        ]
        due.sort(key=lambda timer: timer.deadline_ns)
        for timer in due:
            timer.expired = True
            self._counts[timer.key[2]].expirations += 1
        for pid in dict.fromkeys(timer.key[0] for timer in due):
            fatal = [timer for timer in due if timer.key[0] == pid and timer.signal > 0]
            if not fatal:
                continue  # observed only
            self._reaped.append((pid, fatal[0].signal))
            self._counts[fatal[0].key[2]].reaps += 1
            self._known.discard(pid)
            for key in [key for key in self._timers if key[0] == pid]:
                del self._timers[key]

    # -- the comparison -----------------------------------------------------------------------

    def check(self) -> None:
        """Both say the same."""
        watchdog, observer = self._rig.watchdog, self._rig.observer
        statistics = watchdog.statistics
        assert sum(statistics.rejected.values()) == 0
        assert statistics.requests == self._requests
        assert statistics.workers == len(self._known)
        assert {worker.pid for worker in watchdog.known_workers()} == self._known
        found = {
            (each.worker.pid, each.timer.thread, each.timer.scope_id): each
            for each in watchdog.state.running()
        }
        assert found.keys() == self._timers.keys()
        for key, timer in self._timers.items():
            running = found[key]
            # The wall clock counts in floating-point seconds: torch's deadlines are as exact.
            slack = 1e-6
            assert abs(running.remaining_seconds - (timer.deadline_ns - self._now) / _NS) < slack
            assert abs(running.age_seconds - self._age(timer)) < slack
            assert running.expired == timer.expired
        assert statistics.scopes.keys() <= self._counts.keys()
        for scope, counts in self._counts.items():
            self._check_scope(scope, counts)
        assert sorted(self._rig.reaped) == sorted(self._reaped)
        expirations = sum(counts.expirations for counts in self._counts.values())
        assert statistics.lateness.total >= 0
        assert sum(statistics.lateness.counts) == expirations
        assert all(event.lateness_seconds >= 0 for event in observer.of(TimerExpired))
        assert len(observer.of(TimerExpired)) == expirations
        assert len(observer.of(WorkerKilled)) == len(self._reaped)
        assert [
            (event.worker.pid, len(event.timers)) for event in observer.of(WorkerExited)
        ] == self._exits
        durations = sum(len(counts.durations) for counts in self._counts.values())
        assert len(observer.of(TimerReleased)) == durations

    def _check_scope(self, scope: str, counts: _Counts) -> None:
        found = self._rig.watchdog.statistics.scope(scope)
        mine = [timer for timer in self._timers.values() if timer.key[2] == scope]
        assert (found.acquires, found.releases, found.expirations) == (
            counts.acquires,
            counts.releases,
            counts.expirations,
        )
        assert found.active == len(mine)
        assert found.overdue == sum(timer.expired for timer in mine)
        assert found.reaps[Outcome.KILLED] == sum(found.reaps.values()) == counts.reaps
        assert sum(found.durations.counts) == len(counts.durations)
        assert abs(found.durations.total - sum(counts.durations)) < 1e-6 * (
            1 + len(counts.durations)
        )
