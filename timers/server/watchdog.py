"""The engine under every server of ours: requests in, deadlines watched, stuck workers reaped.

One thread runs :meth:`Watchdog.step` in a loop. It sleeps in epoll(7) until a request arrives, a
worker exits (pidfd), a reap finishes or the next deadline comes, whichever is first; it never does
anything that can block on somebody else. What can (dump, kill, confirmation) happens on one thread
for each worker being reaped (:mod:`timers.server._reaping`), which hands its result back.

A release that was sent before a deadline always counts: before a timer expires and before a
worker's exit is taken note of, everything that lies in the transport is read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import weakref
from typing import TYPE_CHECKING, Protocol

from timers.events import (
    Outcome,
    ReapFailed,
    TimerExpired,
    TimerOverran,
    WatchdogStarted,
    WatchdogStopped,
    WorkerExited,
    WorkerKilled,
)

from ._intake import HOLD_NS, Intake
from ._ledger import NS, Ledger, RunningTimer, running, timer_info
from ._reaping import Reaped, Reaping
from .reaper import ReapPolicy, choose, retry_delay
from .roster import Roster, ending
from .workers import Worker, Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from timers.clock import Clock
    from timers.events import Observer, WorkerInfo
    from timers.transport.wire import Message, Rejection

    from ._table import Timer, TimerTable
    from .reaper import BeforeKill
    from .statistics import Statistics

__all__ = ["RunningTimer", "Sampler", "Source", "Watchdog"]

_logger = logging.getLogger(__name__)

_FOREVER = 2**63
_OVERSLEPT_NS = 2 * NS
"""A server that wakes up this much too late was stopped (SIGSTOP, a frozen cgroup). The releases
that its workers could not send meanwhile get some time to arrive before anything expires."""
_HOLD_AT_MOST_NS = 5 * HOLD_NS
"""As long as requests keep coming in it is still catching up, and holds on for up to this long."""


class Source(Protocol):
    """Where requests come from."""

    def fileno(self) -> int | None:
        """A descriptor that is readable when requests wait; None when there is no such thing."""
        ...

    def read(self, timeout: float) -> tuple[Sequence[Message], Sequence[Rejection]]:
        """All that is there now. Only a source without ``fileno`` may wait, up to ``timeout``."""
        ...


class Sampler(Protocol):
    """Looks at a worker while its timer runs, so that more is known should it expire."""

    def moments(self, after_seconds: float) -> tuple[float, ...]:
        """When to look, in seconds after the acquire, for a timer of ``after_seconds``."""
        ...

    def look(self, running: RunningTimer, /) -> None:
        """Look at the worker of ``running``. Called by the watchdog's thread: must not block."""
        ...


class Watchdog:
    """Timers, workers and reaps of one server.

    :param source: where requests come from.
    :param run_id: names the job in every event.
    :param statistics: counts what happens here.
    :param policy: how stuck workers are ended.
    :param clock: where the time comes from.
    :param observer: who is told; may be replaced until the first step.
    :param reap: ends a worker: ``reap(pid, signal)`` as in torch, true when it is done with. What
        it raises counts as done. Called on the worker's reaping thread.
    :param before_kill: gives the step that runs before a kill (looked up anew each time).
    :param is_running: whether a pid has a process; consulted when the kernel reports an exit.

    All methods but :meth:`step` may be called from any thread. In a forked child it is closed:
    its descriptors must not keep the parent's pipe alive.
    """

    def __init__(
        self,
        source: Source,
        *,
        run_id: str,
        statistics: Statistics,
        policy: ReapPolicy,
        clock: Clock,
        observer: Observer,
        reap: Callable[[int, int], bool],
        before_kill: Callable[[], BeforeKill],
        is_running: Callable[[int], bool],
    ) -> None:
        self._source = source
        self._source_fd = source.fileno()
        self._clock = clock
        self._is_running = is_running
        self._ledger = Ledger(
            run_id=run_id,
            statistics=statistics,
            clock=clock,
            observer=observer,
            max_timers=policy.max_timers,
        )
        self.statistics = statistics
        self.lock = self._ledger.lock
        """Held while timers or workers change; never while waiting."""
        self.workers = Workers(policy.descendants_of, policy.users)
        self._roster = Roster(self.workers, statistics, self._source_fd, self._exited)
        self._intake = Intake(self._ledger, self._roster)
        self._reaping = Reaping(self._ledger, self._roster, policy, reap, before_kill)
        self._sampler: Sampler | None = None
        self._retries: dict[Worker, tuple[int, list[Timer[Worker]]]] = {}
        self._hold_until_ns = 0
        self._hold_at_most_ns = 0
        self._unfinished = False
        """Whether a step was begun and has not come to its end."""
        self._closed = False
        _open_watchdogs.add(self)

    @property
    def table(self) -> TimerTable[Worker]:
        """The timers that run. To be read under :attr:`lock`."""
        return self._ledger.table

    @property
    def observer(self) -> Observer:
        """Who is told; may be set until the first step."""
        return self._ledger.observer

    @observer.setter
    def observer(self, observer: Observer) -> None:
        self._ledger.observer = observer

    @property
    def sampler(self) -> Sampler | None:
        """Who looks at workers before their deadline; may be set until the first step."""
        return self._sampler

    @sampler.setter
    def sampler(self, sampler: Sampler | None) -> None:
        self._sampler = sampler
        self._intake.look_at(None if sampler is None else sampler.moments)

    # -- the loop -----------------------------------------------------------------------------

    def step(self, until_ns: int) -> None:
        """Sleep until there is something to do, at most until ``until_ns``, and do it.

        What it raises (out of memory, an error of ours) ends that step alone: the next one begins
        by making good what was left undone.
        """
        if self._unfinished or self._intake.disturbed:
            self._recover()
        self._unfinished = True
        self._step(until_ns)
        self._unfinished = False

    def _step(self, until_ns: int) -> None:
        wake_ns = min(until_ns, self._next_wake())
        timeout = max(0, wake_ns - self._clock.monotonic_ns()) / NS
        # Whoever had ended before their requests were read may have sent more, which this step
        # reads; those found during this step are for the next one. The same goes for finished
        # reaps: their workers may have sent something right before the end.
        gone = self._roster.take_gone()
        requests = self.statistics.requests
        if self._source_fd is None:
            messages, rejections = self._source.read(timeout)
            self.apply(messages, rejections)
            timeout = 0.0
        gone += self._roster.wait(timeout)
        finished = self._reaping.finished()
        # Before the last read: a deadline that passes while requests are taken up is for the next
        # step, because its release may have been sent in time and not been read yet.
        due_ns = self._clock.monotonic_ns()
        self.apply(*self._source.read(0.0))
        with self.lock:
            for worker in gone:
                self._exited(worker)
            self._take(finished)
            now_ns = self._clock.monotonic_ns()
            if now_ns - wake_ns > _OVERSLEPT_NS:
                self._hold_until_ns = now_ns + HOLD_NS
                self._hold_at_most_ns = now_ns + _HOLD_AT_MOST_NS
            elif now_ns < self._hold_until_ns and self.statistics.requests > requests:
                self._hold_until_ns = min(now_ns + HOLD_NS, self._hold_at_most_ns)
        if now_ns >= self._hold_until_ns:
            self.sweep(due_ns)

    def wake(self) -> None:
        """Make a sleeping :meth:`step` return. Safe from any thread and after :meth:`close`."""
        self._roster.wake()

    def _next_wake(self) -> int:
        with self.lock:
            deadline = self.table.next_deadline()
            retries = [when for when, _ in self._retries.values()]
        wake_ns = min([_FOREVER if deadline is None else deadline, *retries])
        return max(wake_ns, self._hold_until_ns)

    def apply(self, messages: Iterable[Message], rejections: Iterable[Rejection] = ()) -> None:
        """Take up requests; count what was refused before it got here."""
        self._intake.apply(messages, rejections)

    def _recover(self) -> None:
        """Make good what a step left undone that did not come to its end.

        By looking at everything, so that it does not matter where that step ended: what was
        counted and told by then may be counted and told twice, but nothing is forgotten.
        """
        with self.lock:
            self._intake.disturbed = False
            for worker in self._roster.look_for_exits():
                self._exited(worker)
            for timer in self.table:
                worker = timer.worker
                if timer.expired and worker not in self._reaping and worker not in self._retries:
                    timer.expired = False  # for the next sweep, which tells, counts and reaps
                    worker.pending = []
            self.table.rebuild()
            self._ledger.recount()
            self.statistics.workers = self.workers.watched

    # -- exits --------------------------------------------------------------------------------

    def _exited(self, worker: Worker) -> None:
        if worker.forgotten:
            return  # its pid was found recycled earlier in this step
        self._roster.unwatch(worker)
        if worker in self._reaping:
            return  # its reap will find out, and tells the end of the story
        if worker.process is not None and not self._is_gone(worker):
            return
        retry = self._retries.pop(worker, None)
        if retry is not None and any(timer.live for timer in retry[1]):
            # A reap under way all the same: SIGKILL had its effect later than was waited for.
            still_alive = worker.outcome is Outcome.STILL_ALIVE
            outcome = Outcome.KILLED if still_alive else Outcome.ALREADY_GONE
            _, signal = choose(retry[1])
            self._settle(Reaped(worker, retry[1], signal, outcome, worker.descendants))
            return
        timers = self._ledger.clear(worker)
        how = ending(worker.process)
        if worker.refusal is None:
            self._ledger.emit(WorkerExited, worker=worker.info, timers=timers, **how)
        self._roster.forget(worker)

    def _is_gone(self, worker: Worker) -> bool:
        # The kernel says so; is_running() is asked as well because in torch it is the authority
        # that a subclass overrides. It cannot vouch for a recycled pid, hence the order.
        try:
            running = self._is_running(worker.pid)
        except Exception:
            _logger.exception("is_process_running raised for %s, which has ended", worker.pid)
            running = False
        return not running or (worker.process is not None and worker.process.replaced())

    def clear(self, pids: Iterable[int]) -> None:
        """Drop every timer of these workers; they stay known."""
        with self.lock:
            for pid in pids:
                worker = self.workers.by_pid.get(pid)
                if worker is not None:
                    self._ledger.clear(worker)

    # -- deadlines ----------------------------------------------------------------------------

    def sweep(self, due_ns: int | None = None) -> None:
        """Expire what is due and start reaping; also what :meth:`step` ends with.

        :param due_ns: up to which deadline; by default, now.
        """
        with self.lock:
            if due_ns is None:
                due_ns = self._clock.monotonic_ns()
            self.statistics.last_sweep = self._clock.time()
            workers = self._expire(due_ns)
            self._look(due_ns)
            due = [worker for worker, (when, _) in self._retries.items() if when <= due_ns]
            for worker in due:
                # Whoever has released its timers since is no longer stuck.
                failed = [timer for timer in self._retries.pop(worker)[1] if timer.live]
                worker.pending = [*failed, *worker.pending]
                if not failed:
                    worker.attempts = 0
            for worker in dict.fromkeys((*workers, *due)):
                self._start_reap(worker)

    def _expire(self, due_ns: int) -> list[Worker]:
        workers: dict[Worker, None] = {}
        now_ns = self._clock.monotonic_ns()
        for timer in self.table.expired(due_ns):
            timer.worker.pending.append(timer)
            workers[timer.worker] = None
            lateness = (now_ns - timer.deadline_ns) / NS
            self.statistics.lateness.observe(lateness)
            scope = self.statistics.scope(timer.scope_id)
            scope.expirations += 1
            scope.overdue += 1
            self._ledger.emit(
                TimerExpired,
                worker=timer.worker.info,
                timer=timer_info(timer),
                elapsed_seconds=(now_ns - timer.acquired_ns) / NS,
                lateness_seconds=lateness,
            )
        return list(workers)

    def _look(self, now_ns: int) -> None:
        """Warn and sample at the checkpoints that were passed."""
        for timer in self.table.take_reached():
            if timer.warn_ns is not None and timer.warn_ns <= now_ns:
                timer.warn_ns = None
                self._ledger.emit(
                    TimerOverran,
                    worker=timer.worker.info,
                    timer=timer_info(timer),
                    elapsed_seconds=(now_ns - timer.acquired_ns) / NS,
                )
            if self._sampler is not None:
                with contextlib.suppress(Exception):  # whatever it does, deadlines are kept
                    self._sampler.look(running(timer, now_ns))

    # -- reaps --------------------------------------------------------------------------------

    def _start_reap(self, worker: Worker) -> None:
        if worker in self._reaping or worker in self._retries:
            return
        # Those released while an earlier reap was under way are no reason for another.
        timers = [timer for timer in worker.pending if timer.live]
        if timers:
            self._reaping.start(worker, timers)
        worker.pending = []

    def terminate(self, pid: int, signal: int) -> bool:
        """What ``_reap_worker`` does unless overridden: end ``pid``, true when it is gone.

        Blocks for up to twice the grace period. False for a process that may not be reaped.
        """
        return self._reaping.terminate(pid, signal)

    def _take(self, finished: Iterable[Worker]) -> None:
        for worker in finished:
            self._settle(self._reaping.take(worker))

    def _settle(self, reaped: Reaped) -> None:
        worker = reaped.worker
        timer, _ = choose(reaped.timers)
        if reaped.outcome is None:
            if worker.process is None or worker.process.exited():
                self._roster.note_gone(worker)
            else:
                self._start_reap(worker)
            return
        scope = self.statistics.scope(timer.scope_id)
        scope.reaps[reaped.outcome] += 1
        if reaped.outcome.failed:
            self._retry(reaped, timer, reaped.outcome)
            return
        timers = self._ledger.clear(worker)
        worker.pending = []
        self._ledger.emit(
            WorkerKilled,
            worker=worker.info,
            timer=timer_info(timer),
            elapsed_seconds=self._ledger.elapsed(timer),
            signal=reaped.signal,
            outcome=reaped.outcome,
            timers=timers,
            descendants=tuple(reaped.descendants),
        )
        self._roster.forget(worker)

    def _retry(self, reaped: Reaped, timer: Timer[Worker], outcome: Outcome) -> None:
        worker = reaped.worker
        worker.attempts += 1
        delay = retry_delay(worker.attempts)
        self._retries[worker] = (self._clock.monotonic_ns() + int(delay * NS), reaped.timers)
        self._ledger.emit(
            ReapFailed,
            worker=worker.info,
            timer=timer_info(timer),
            elapsed_seconds=self._ledger.elapsed(timer),
            signal=reaped.signal,
            outcome=outcome,
            attempt=worker.attempts,
            retry_in_seconds=delay,
        )

    def settle(self, timeout: float) -> bool:
        """Wait until no reap is under way and take up the results; false when time ran out.

        For callers of a single step and for stopping; in the loop results arrive by themselves.
        """
        self._reaping.join(timeout)
        with self.lock:
            self._take(self._reaping.finished())
            return not self._reaping

    # -- for those who ask, and the end -----------------------------------------------------------

    def started(self, address: str, max_interval: float) -> None:
        """Tell the observer that the server listens."""
        self._ledger.emit(WatchdogStarted, address=address, max_interval_seconds=max_interval)

    def running(self, limit: int | None = None) -> list[RunningTimer]:
        """The ``limit`` most urgent of the timers that run, or that expired and are still open."""
        return self._ledger.running(limit)

    def known_workers(self) -> list[WorkerInfo]:
        """Every worker that sent a request and has not been seen to exit."""
        with self.lock:
            return [worker.info for worker in self.workers if worker.refusal is None]

    def stopped(self) -> None:
        """Tell the observer that the server no longer listens, and what nobody watches now."""
        with self.lock:
            now_ns = self._clock.monotonic_ns()
            timers = tuple(
                (timer.worker.info, timer_info(timer), (now_ns - timer.started_ns) / NS)
                for timer in self.table
            )
        self._ledger.emit(WatchdogStopped, timers=timers)

    def close(self) -> None:
        """Give back every descriptor. Idempotent; the table stays readable."""
        if self._closed:
            return
        self._closed = True
        _open_watchdogs.discard(self)
        self._roster.close()


_open_watchdogs: weakref.WeakSet[Watchdog] = weakref.WeakSet()


def _close_in_child() -> None:
    # A forked child that kept them would hold the pipe open for a server that has died, and the
    # epoll instance is shared with the parent: closing is all that may be done with it here.
    for watchdog in list(_open_watchdogs):
        watchdog.close()


os.register_at_fork(after_in_child=_close_in_child)
