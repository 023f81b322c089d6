"""The engine under every server of ours: requests in, deadlines watched, stuck workers reaped.

One thread runs :meth:`Watchdog.step` in a loop. It sleeps in epoll(7) until a request arrives, a
worker exits (pidfd), a reap finishes or the next deadline comes, whichever is first; it never does
anything that can block on somebody else. What can (dump, kill, confirmation) happens on one thread
for each worker being reaped (:mod:`timers.server._reaping`), which hands its result back.

A release that was sent before a deadline always counts: before a timer expires and before a
worker's exit is handled, everything that this worker has sent is read. Of what others have sent a
step reads no more than a fair share, so that nothing due has to wait for those who send much.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
from functools import lru_cache
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
from timers.forks import reset_in_child
from timers.linux.promptness import LOOK_NS, Promptness
from timers.transport.board import MOMENT_NS
from timers.transport.source import BoardSource
from timers.transport.wire import BOARD, Rejection

from ._intake import HOLD_NS, Intake
from ._reaping import Reap, Reaping
from ._state import NS, RunningTimer, State, running, timer_info
from .boards.registry import BadBoardError
from .reaper import ReapPolicy, retry_delay
from .workers import Worker, Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from timers.clock import Clock
    from timers.events import Observer, WorkerInfo
    from timers.transport.source import Source
    from timers.transport.wire import Message

    from .reaper import Step
    from .statistics import Statistics

__all__ = ["RunningTimer", "Sampler", "Watchdog"]

_logger = logging.getLogger(__name__)

_FOREVER = 2**63
_OVERSLEPT_NS = 2 * NS
"""A server that wakes up this much too late was stopped (SIGSTOP, a frozen cgroup). The releases
that its workers could not send meanwhile get some time to arrive before anything expires."""
_COUNT_SECONDS = 0.25
_MOST_OFFSETS = 1000
_HOLD_AT_MOST_NS = 5 * HOLD_NS
"""As long as requests keep coming in it is still catching up, and holds on for up to this long."""


class Sampler(Protocol):
    """Samples a worker while its timer runs, so that more is known should it expire."""

    def moments(self, after_seconds: float) -> tuple[float, ...]:
        """Return when to sample, in seconds after the acquire, for a timer of ``after_seconds``."""
        ...

    @property
    def first(self) -> tuple[int, int]:
        """What workers have to know of :meth:`moments`; (0, 0) when there never are any.

        From how many ns on a timer is sampled, and when first, in thousandths of its time.
        """
        ...

    def look(self, running: RunningTimer, /) -> None:
        """Sample the worker of ``running``. Called by the watchdog's thread: must not block."""
        ...


class Watchdog:
    """Timers, workers and reaps of one server.

    :param sources: where requests come from; several must each have a descriptor.
    :param run_id: names the job in every event.
    :param statistics: counts what happens here.
    :param policy: how stuck workers are ended.
    :param clock: where the time comes from.
    :param observer: receives the events; may be replaced until the first step.
    :param replaced_reap: see :class:`~timers.server._reaping.Reaping`.
    :param before_kill: see there.
    :param is_running: whether a pid has a process; consulted when the kernel reports an exit.
    :raises ValueError: several sources, one of which has no descriptor to wait for.

    All methods but :meth:`step` may be called from any thread. In a forked child it is closed:
    its descriptors must not keep the parent's pipe alive.
    """

    def __init__(
        self,
        *sources: Source,
        run_id: str,
        statistics: Statistics,
        policy: ReapPolicy,
        clock: Clock,
        observer: Observer,
        is_running: Callable[[int], bool],
        before_kill: Callable[[float], Step],
        replaced_reap: Callable[[], Callable[[int, int], bool] | None] = lambda: None,
    ) -> None:
        self._sources = sources
        readable = [fd for source in sources if (fd := source.fileno()) is not None]
        self._blind = len(readable) < len(sources)
        """Whether the source has no descriptor, so that waiting is up to it."""
        if self._blind and len(sources) > 1:
            raise ValueError(f"one of the sources {sources!r} has no descriptor to wait for")
        self._clock = clock
        self._is_running = is_running
        self.statistics = statistics
        self.state = State(
            run_id=run_id,
            statistics=statistics,
            clock=clock,
            observer=observer,
            max_timers=policy.max_timers,
        )
        self.lock = self.state.lock
        """Held while timers or workers change; never while waiting."""
        self.workers = Workers(
            policy.descendants_of,
            policy.users,
            sources=readable,
            statistics=statistics,
            on_exit=self._exited,
        )
        self._intake = Intake(self.state, self.workers)
        for source in sources:
            if isinstance(source, BoardSource):
                source.on_descriptor, source.on_wake = self._accept_board, self._wake_board
        statistics.collectors.append(self._collect)
        self.promptness = Promptness()
        """Of the thread that runs :meth:`step`."""
        self._reaping = Reaping(
            self.state,
            self.workers,
            policy,
            replaced_reap,
            before_kill,
            promptness=self.promptness,
        )
        self._sampler: Sampler | None = None
        self._retries: dict[Worker, tuple[int, Reap]] = {}
        """When a reap that failed is tried again."""
        self._hold_until_ns = 0
        self._hold_at_most_ns = 0
        self._unfinished = False
        """Whether a step was begun and has not come to its end."""
        reset_in_child(self)

    def sample_with(self, sampler: Sampler) -> None:
        """Have workers sampled before their deadline; to be called before the first step."""
        boards = self.state.boards
        self._sampler = sampler
        self._intake.offsets = boards.offsets = _offsets(sampler)
        boards.sample_from_ns, boards.sample_share = sampler.first

    # -- the loop -----------------------------------------------------------------------------

    def step(self, until_ns: int) -> None:
        """Sleep until there is something to do, at most until ``until_ns``, and do it.

        What it raises (out of memory, an error of ours) ends that step alone: the next one begins
        with what was left undone.
        """
        self.promptness.account()
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
        gone = self.workers.take_gone()
        requests = self.statistics.requests
        if self._blind:
            self._read(timeout)
            timeout = 0.0
        gone += self.workers.wait(timeout)
        finished = self._reaping.finished()
        # Before the last read: a deadline that passes while requests are applied is for the next
        # step, because its release may have been sent in time and not been read yet.
        due_ns = self._clock.monotonic_ns()
        with self.lock:
            due = {worker for each in self.state.deadlines for worker in each.due(due_ns)}
        # Everything of those who are about to be expired or forgotten; of the others only their
        # turn, or workers that send without a pause would delay what is due.
        self._read(0.0, {worker.pid for worker in (*due, *gone, *finished)})
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

    def read_all(self, until_ns: int) -> None:
        """Apply everything that has been sent, for as long as there is more, until ``until_ns``."""
        waiting = select.poll()
        for source in self._sources:
            if (fd := source.fileno()) is not None:
                waiting.register(fd, select.POLLIN)
        while waiting.poll(0) and self._clock.monotonic_ns() < until_ns:
            self._read(0.0)

    def _read(self, timeout: float, pids: Collection[int] = ()) -> None:
        for source in self._sources:
            self.apply(*source.read(timeout, pids))

    def wake(self) -> None:
        """Make a sleeping :meth:`step` return. Safe from any thread and after :meth:`close`."""
        self.workers.wake()

    def _next_wake(self) -> int:
        with self.lock:
            deadline = self.state.next_deadline()
            retries = [when for when, _ in self._retries.values()]
        wake_ns = min([_FOREVER if deadline is None else deadline, *retries])
        if self.promptness.others:
            wake_ns = min(wake_ns, self._clock.monotonic_ns() + LOOK_NS)
        return max(wake_ns, self._hold_until_ns)

    def apply(self, messages: Iterable[Message], rejections: Iterable[Rejection] = ()) -> None:
        """Apply requests; count what was refused before it got here."""
        self._intake.apply(messages, rejections)

    # -- boards -------------------------------------------------------------------------------

    def _accept_board(
        self, pid: int, start_time: int | None, data: bytes, fd: int
    ) -> Rejection | None:
        """Take over the board that a worker sends along with a packet."""
        if data != BOARD:
            os.close(fd)
            detail = f"process {pid} sent a descriptor along, which nothing here takes"
            return Rejection("unexpected_descriptor", detail)
        with self.lock:
            try:
                worker = self._intake.sender(pid, start_time)
                if worker is None or worker.refusal is not None:
                    os.close(fd)
                    reason = "identity_mismatch" if worker is None else worker.refusal or ""
                    return Rejection(reason, f"process {pid} sent a board and is no worker")
                boards = self.state.boards
                boards.wants_requests = self.state.observer.wants_requests
                boards.accept(worker, fd)
            except BadBoardError as error:
                return Rejection("wrong_type", f"the board of process {pid} is refused: {error}")
            except OSError as error:  # who sent it could not be found out
                with contextlib.suppress(OSError):
                    os.close(fd)
                return Rejection("internal_error", f"the board of process {pid}: {error}")
        return None

    def _wake_board(self, pid: int) -> None:
        with self.lock:
            worker = self.workers.by_pid.get(pid)
            if worker is not None:
                self.state.boards.wake(worker)

    def _collect(self) -> None:
        """Count what the workers have counted on their boards."""
        if not self._count_boards():
            time.sleep(MOMENT_NS / NS)
            self._count_boards()

    def _count_boards(self) -> bool:
        """Count; return false when another count, a moment later, would add more."""
        # Whoever reads counts of a server that is stuck wants to know that, and not to be, too.
        if not self.lock.acquire(timeout=_COUNT_SECONDS):
            return True
        try:
            is_settled = self.state.boards.count()
            for reason in self.state.boards.take_refused():
                self.statistics.rejected_for(reason)
            return is_settled
        finally:
            self.lock.release()

    def _recover(self) -> None:
        """Do what a step left undone that did not come to its end.

        By checking everything, so that it does not matter where that step ended: what was counted
        and emitted by then may be counted and emitted twice, but nothing is forgotten.
        """
        with self.lock:
            self._intake.disturbed = False
            for worker in self.workers:
                if worker.has_ended:
                    self._exited(worker)
            timers = list(self.state.timers())
            for timer in timers:
                timer.worker.outers = 0
            for timer in timers:
                worker = timer.worker
                worker.outers += timer.depth
                if timer.expired and worker not in self._reaping and worker not in self._retries:
                    timer.expired = False  # for the next sweep, which emits, counts and reaps
                    worker.pending = []
            table = self.state.table
            self.statistics.recount((timer.scope_id, timer.expired) for timer in table)
            for deadlines in self.state.deadlines:
                deadlines.rebuild()
            self.statistics.watching(self.workers.watched)

    # -- exits --------------------------------------------------------------------------------

    def _exited(self, worker: Worker) -> None:
        if worker.forgotten:
            return  # its pid was found recycled earlier in this step
        self.workers.unwatch(worker)
        if worker in self._reaping:
            return  # its reap finds out, and reports the end
        if worker.process is not None and not self._is_gone(worker):
            return
        _, reap = self._retries.pop(worker, (0, None))
        if reap is not None and any(timer.live for timer in reap.timers):
            # A reap under way all the same: SIGKILL had its effect later than was waited for.
            still_alive = reap.confirmed is Outcome.STILL_ALIVE
            reap.outcome = Outcome.KILLED if still_alive else Outcome.ALREADY_GONE
            self._conclude(reap)
            return
        timers = self.state.clear(worker)
        if worker.refusal is None and (timers or not worker.concluded):
            fields = worker.exit_fields()
            self.state.emit(WorkerExited, worker=worker.info, timers=timers, **fields)
        self.workers.forget(worker)

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
                    self.state.clear(worker)

    # -- deadlines ----------------------------------------------------------------------------

    def sweep(self, due_ns: int | None = None) -> None:
        """Expire what is due and start reaping; also what :meth:`step` ends with.

        :param due_ns: up to which deadline; by default, now.
        """
        with self.lock:
            if due_ns is None:
                due_ns = self._clock.monotonic_ns()
            self.statistics.swept(self._clock.time())
            workers = self._expire(due_ns)
            self._sample(due_ns)
            due = [worker for worker, (when, _) in self._retries.items() if when <= due_ns]
            for worker in due:
                # Whoever has released its timers since is no longer stuck.
                _, reap = self._retries.pop(worker)
                failed = [timer for timer in reap.timers if timer.live]
                worker.pending = [*failed, *worker.pending]
                if not failed:
                    worker.attempts = 0
            for worker in dict.fromkeys((*workers, *due)):
                self._start_reap(worker)

    def _expire(self, due_ns: int) -> list[Worker]:
        workers: dict[Worker, None] = {}
        now_ns = self._clock.monotonic_ns()
        for deadlines in self.state.deadlines:
            for timer in deadlines.expired(due_ns):
                timer.worker.pending.append(timer)
                workers[timer.worker] = None
                lateness = (now_ns - timer.deadline_ns) / NS
                self.statistics.expired(timer.scope_id, lateness)
                self.state.emit_timer(TimerExpired, timer, lateness_seconds=lateness)
        return list(workers)

    def _sample(self, now_ns: int) -> None:
        """Warn and sample at the checkpoints that were passed."""
        for timer in [each for found in self.state.deadlines for each in found.take_reached()]:
            if timer.warn_ns is not None and timer.warn_ns <= now_ns:
                timer.warn_ns = None
                self.state.emit_timer(TimerOverran, timer)
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
        """End ``pid``; see :meth:`timers.server._reaping.Reaping.terminate`."""
        return self._reaping.terminate(pid, signal)

    def _take(self, finished: Iterable[Worker]) -> None:
        for worker in finished:
            self._conclude(self._reaping.take(worker))

    def _conclude(self, reap: Reap) -> None:
        """Count and report what came of a reap, and forget its worker or try again."""
        worker, outcome = reap.worker, reap.outcome
        if outcome is None:
            if worker.has_ended:
                self.workers.note_gone(worker)
            else:
                self._start_reap(worker)
            return
        self.statistics.reaped(reap.timer.scope_id, outcome)
        if outcome.failed:
            worker.attempts += 1
            delay = retry_delay(worker.attempts)
            self._retries[worker] = (self._clock.monotonic_ns() + int(delay * NS), reap)
            self.state.emit_timer(
                ReapFailed,
                reap.timer,
                signal=reap.signal,
                outcome=outcome,
                attempt=worker.attempts,
                retry_in_seconds=delay,
            )
            return
        timers = self.state.clear(worker)
        worker.pending = []
        self.state.emit_timer(
            WorkerKilled,
            reap.timer,
            signal=reap.signal,
            outcome=outcome,
            timers=timers,
            descendants=tuple(reap.descendants),
        )
        worker.concluded = True  # only now: should that have failed, its exit is reported
        if worker.has_ended or not self.state.boards.has(worker):
            self.workers.forget(worker)

    def wait_for_reaps(self, timeout: float) -> bool:
        """Wait until no reap is under way and take the results; false when time ran out.

        For callers of a single step and for stopping; in the loop results arrive by themselves.
        """
        self._reaping.join(timeout)
        with self.lock:
            self._take(self._reaping.finished())
            return not self._reaping

    # -- for those who ask, and the end -----------------------------------------------------------

    def started(self, address: str, max_interval: float, **reached_by: str) -> None:
        """Report that the server listens."""
        self.state.emit(
            WatchdogStarted, address=address, max_interval_seconds=max_interval, **reached_by
        )

    def known_workers(self) -> list[WorkerInfo]:
        """Return every worker that sent a request and has not been seen to exit."""
        with self.lock:
            found = [worker for worker in self.workers if worker.refusal is None]
        for worker in found:
            worker.read_ranks()
        return [worker.info for worker in found]

    def stopped(self) -> None:
        """Report that the server no longer listens, and what nobody watches now."""
        with self.lock:
            now_ns = self._clock.monotonic_ns()
            timers = tuple(
                (timer.worker.info, timer_info(timer), (now_ns - timer.started_ns) / NS)
                for timer in self.state.timers()
            )
        self.state.emit(WatchdogStopped, timers=timers)

    def close(self) -> None:
        """Give back every descriptor. Idempotent; the table stays readable."""
        self.workers.close()

    # A forked child that kept them would hold the pipe open for a server that has died, and the
    # epoll instance is shared with the parent: closing is all that may be done with it there.
    after_fork = close


def _offsets(sampler: Sampler) -> Callable[[int], tuple[int, ...]]:
    """Return what says when a timer of so many ns is to be sampled, in ns after its acquire."""

    @lru_cache(_MOST_OFFSETS)
    def offsets(after_ns: int) -> tuple[int, ...]:
        found = {int(moment * NS) for moment in sampler.moments(after_ns / NS)}
        return tuple(sorted(offset for offset in found if offset < after_ns))

    return offsets
