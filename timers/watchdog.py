"""The engine under every server of ours: requests in, deadlines watched, stuck workers reaped.

One thread runs :meth:`Watchdog.step` in a loop. It sleeps in epoll(7) until a request arrives, a
worker exits (pidfd), a reap finishes or the next deadline comes, whichever is first; it never does
anything that can block on somebody else. What can (dump, kill, confirmation) happens on one thread
for each worker being reaped, which hands its result back.

A release that was sent before a deadline always counts: before a timer expires and before a
worker's exit is taken note of, everything that lies in the transport is read.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import os
import select
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .events import (
    Event,
    Observer,
    Outcome,
    ReapFailed,
    RequestRejected,
    StackDumped,
    TimerAcquired,
    TimerExpired,
    TimerInfo,
    TimerOverran,
    TimerReleased,
    WatchdogStarted,
    WatchdogStopped,
    WorkerExited,
    WorkerInfo,
    WorkerKilled,
)
from .reaper import ReapPolicy, call_bounded, choose, retry_delay, terminate
from .stacks import StackDump
from .table import Timer, TimerTable
from .wire import Message, Rejection, request_json
from .workers import Worker, Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .clock import Clock
    from .process import Process
    from .reaper import BeforeKill
    from .statistics import ScopeStatistics, Statistics

__all__ = ["RunningTimer", "Sampler", "Source", "Watchdog"]

_logger = logging.getLogger(__name__)

_NS = 1_000_000_000
_FOREVER = 2**63
_REJECTIONS_LOGGED_EVERY_NS = _NS
_DUMP_OVERRUN_SECONDS = 0.5
"""A step that is about to give up by itself knows more than that it took too long."""
_OVERSLEPT_NS = 2 * _NS
_HOLD_NS = _NS // 2
"""A server that wakes up this much too late was stopped (SIGSTOP, a frozen cgroup). The releases
that its workers could not send meanwhile get this long to arrive before anything expires."""
_HOLD_AT_MOST_NS = 5 * _HOLD_NS
"""As long as requests keep coming in it is still catching up, and holds on for up to this long."""
_HELD_UP_NS = _NS // 10
"""An acquire that arrives this much after its own deadline was held up, and gets the same time."""


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


class RunningTimer(NamedTuple):
    """One open timer at one moment."""

    worker: WorkerInfo
    timer: TimerInfo
    age_seconds: float
    """Since its block was entered."""
    remaining_seconds: float
    """Until its deadline; negative once that has passed."""
    expired: bool
    """Whether the server has taken note of that."""


class _Reaped(NamedTuple):
    """What a reaping thread hands back."""

    worker: Worker
    timers: list[Timer[Worker]]
    signal: int
    outcome: Outcome | None
    """None when it was only observed."""
    descendants: list[int]


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
        self.observer = observer
        self.sampler: Sampler | None = None
        """May be set until the first step."""
        self.statistics = statistics
        self.table: TimerTable[Worker] = TimerTable()
        self.workers = Workers(policy.descendants_of, policy.users)
        self.lock = threading.RLock()
        """Held while timers or workers change; never while waiting."""
        self._source = source
        self._run_id = run_id
        self._policy = policy
        self._clock = clock
        self._reap = reap
        self._before_kill = before_kill
        self._is_running = is_running
        self._retries: dict[Worker, tuple[int, list[Timer[Worker]]]] = {}
        self._ghosts: list[Worker] = []
        self._finished: deque[_Reaped] = deque()
        self._reaping: dict[Worker, threading.Thread | None] = {}
        self._logged_rejections: dict[str, tuple[int, int]] = {}
        self._watched: dict[int, Worker] = {}
        self._unwatched: set[Worker] = set()
        """Workers whose exit epoll cannot report, for want of descriptors: looked at each step."""
        self._hold_until_ns = 0
        self._hold_at_most_ns = 0
        self._closed = False
        self._owner = os.getpid()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._source_fd = source.fileno()
        if self._source_fd is not None:
            self._epoll.register(self._source_fd, select.EPOLLIN)
        _open_watchdogs.add(self)

    # -- the loop -----------------------------------------------------------------------------

    def step(self, until_ns: int) -> None:
        """Sleep until there is something to do, at most until ``until_ns``, and do it."""
        wake_ns = min(until_ns, self._next_wake())
        timeout = max(0, wake_ns - self._clock.monotonic_ns()) / _NS
        # Whoever had ended before their requests were read may have sent more, which this step
        # reads; those found during this step are for the next one.
        gone, self._ghosts = self._ghosts, []
        requests = self.statistics.requests
        if self._source_fd is None:
            messages, rejections = self._source.read(timeout)
            self.apply(messages, rejections)
            timeout = 0.0
        for fd, _ in self._epoll.poll(timeout):
            if fd == self._wake_fd:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)
            elif worker := self._watched.get(fd):
                gone.append(worker)
        gone.extend(worker for worker in list(self._unwatched) if _has_ended(worker))
        # Before the last read: a deadline that passes while requests are taken up is for the next
        # step, because its release may have been sent in time and not been read yet.
        due_ns = self._clock.monotonic_ns()
        self.apply(*self._source.read(0.0))
        with self.lock:
            for worker in gone:
                self._exited(worker)
            while self._finished:
                self._settle(self._finished.popleft())
            now_ns = self._clock.monotonic_ns()
            if now_ns - wake_ns > _OVERSLEPT_NS:
                self._hold_until_ns = now_ns + _HOLD_NS
                self._hold_at_most_ns = now_ns + _HOLD_AT_MOST_NS
            elif now_ns < self._hold_until_ns and self.statistics.requests > requests:
                self._hold_until_ns = min(now_ns + _HOLD_NS, self._hold_at_most_ns)
        if now_ns >= self._hold_until_ns:
            self.sweep(due_ns)

    def wake(self) -> None:
        """Make a sleeping :meth:`step` return. Safe from any thread and after :meth:`close`."""
        fd = self._wake_fd
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.eventfd_write(fd, 1)

    def _next_wake(self) -> int:
        with self.lock:
            deadline = self.table.next_deadline()
            retries = [when for when, _ in self._retries.values()]
        wake_ns = min([_FOREVER if deadline is None else deadline, *retries])
        return max(wake_ns, self._hold_until_ns)

    # -- requests -----------------------------------------------------------------------------

    def apply(self, messages: Iterable[Message], rejections: Iterable[Rejection] = ()) -> None:
        """Take up requests; count what was refused before it got here."""
        with self.lock:
            now_ns = self._clock.monotonic_ns()
            for rejection in rejections:
                self._reject(rejection.reason, rejection.detail, None)
            for message in messages:
                try:
                    self._apply(message, now_ns)
                except Exception as error:  # noqa: BLE001  # one request costs that request
                    self._reject("internal_error", f"{error!r} on {message}", message.pid)

    def _apply(self, message: Message, now_ns: int) -> None:  # noqa: C901, PLR0912  # hot path
        pid, scope_id, start_time = message.pid, message.scope_id, message.start_time
        worker = self.workers.get(pid)
        if worker is None or (start_time is not None and start_time != worker.start_time):
            found = self._identify(pid, start_time)
            if found is None:
                detail = f"the process with pid {pid} is not the one that sent the request"
                self._reject("identity_mismatch", detail, pid)
                return
            worker = found
        if worker.refusal is not None:
            self._reject(worker.refusal, _REFUSALS[worker.refusal].format(pid=pid), pid)
            return
        statistics = self.statistics
        statistics.requests += 1
        scope = statistics.scopes.get(scope_id) or statistics.scope(scope_id)
        told = True
        if message.missed is not None:
            told = False  # how things stand; what happened is counted by its own figures
            scope.acquires += message.missed[0]
            scope.releases += message.missed[1]
        if message.expiration_time < 0:
            scope.releases += told
            released = self.table.release(worker, message.thread, scope_id)
            if released is not None:
                scope.active -= 1
                scope.overdue -= released.expired
                self._ended(released, scope, now_ns, message.error)
            return
        timer = self._timer(worker, message, now_ns)
        replaced = self.table.acquire(timer)
        if replaced is None:
            scope.active += 1
        else:
            scope.overdue -= replaced.expired
            if message.nested:
                timer.outer = replaced
            elif not told:
                pass  # it says itself when its block began
            elif not message.leave:  # a heartbeat: the same block goes on
                timer.continues(replaced)
            else:
                self._ended(replaced, scope, now_ns, message.error)
                if replaced.outer is not None:
                    timer.continues(replaced.outer)
        if message.leave:
            scope.releases += told
            return
        scope.acquires += told
        if self.observer.wants_requests and (told or replaced is None):
            self._emit(TimerAcquired, worker=worker.info, timer=_info(timer))

    def _timer(self, worker: Worker, message: Message, now_ns: int) -> Timer[Worker]:
        deadline_ns, after = message.deadline_ns, message.after
        started_ns = None
        if deadline_ns is None:
            # Converted once, here: whatever happens to the wall clock later moves nothing.
            remaining = int((message.expiration_time - self._clock.time()) * _NS)
            deadline_ns = now_ns + remaining
            acquired_ns = now_ns if remaining > 0 else deadline_ns
        elif after is None:
            acquired_ns = min(now_ns, deadline_ns)
        else:
            if message.missed is not None:
                # It was open before this server knew of it, or was held up: whatever its deadline
                # was, a release that was sent in time may be right behind it.
                started_ns = deadline_ns - int(after * _NS)
                deadline_ns = max(deadline_ns, now_ns + _HOLD_NS)
            elif after > 0 and now_ns - deadline_ns > _HELD_UP_NS:
                # It was sent ahead of its deadline, so it was held up on its way (a stopped
                # server, a full pipe), and so is its release, which may be right behind it.
                deadline_ns = now_ns + _HOLD_NS
            acquired_ns = deadline_ns - int(after * _NS)
        timer = Timer(
            worker,
            message.scope_id,
            deadline_ns=deadline_ns,
            acquired_ns=acquired_ns,
            thread=message.thread,
            signal=message.signal,
            expiration_time=message.expiration_time,
            traceparent=message.traceparent,
            span_id=message.span_id,
        )
        if started_ns is not None:
            timer.started_ns = started_ns
        if message.warn_after is not None or self.sampler is not None:
            self._set_checkpoints(timer, message.warn_after)
        return timer

    def _set_checkpoints(self, timer: Timer[Worker], warn_after: float | None) -> None:
        after_ns = timer.deadline_ns - timer.acquired_ns
        moments = set() if self.sampler is None else set(self.sampler.moments(after_ns / _NS))
        if warn_after is not None:
            timer.warn_ns = timer.acquired_ns + int(warn_after * _NS)
            moments.add(warn_after)
        found = sorted(timer.acquired_ns + int(moment * _NS) for moment in moments)
        timer.checkpoints = tuple(moment for moment in found if moment < timer.deadline_ns)

    def _identify(self, pid: int, start_time: int | None) -> Worker | None:
        """Find or register who sent a request; None when that process is gone and replaced."""
        worker = self.workers.get(pid)
        if worker is not None:
            if worker.process is None:
                if worker.start_time is None:
                    worker.start_time = start_time
                    return worker
            elif not worker.process.exited():
                return None
            self._exited(worker)
            self.workers.unlist(worker)  # one that is being reaped keeps all but its place
        worker = self.workers.open(pid)
        if worker.process is None:
            if worker.refusal is None:
                worker.start_time = start_time
                self._ghosts.append(worker)
                self.wake()
        elif start_time is not None and start_time != worker.start_time:
            self.workers.close(worker)
            return None
        else:
            self._watch(worker, worker.process)
        self.statistics.workers = self.workers.watched
        return worker

    def _watch(self, worker: Worker, process: Process) -> None:
        fd = process.fileno()
        if fd is not None:
            with contextlib.suppress(OSError):
                self._epoll.register(fd, select.EPOLLIN)
                self._watched[fd] = worker
                return
        self._unwatched.add(worker)

    def _unwatch(self, worker: Worker) -> None:
        self._unwatched.discard(worker)
        fd = worker.process.fileno() if worker.process else None
        if fd is not None and self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _reject(self, reason: str, detail: str, pid: int | None) -> None:
        self.statistics.rejected[reason] = self.statistics.rejected.get(reason, 0) + 1
        now_ns = self._clock.monotonic_ns()
        last_ns, suppressed = self._logged_rejections.get(reason, (-_FOREVER, 0))
        if now_ns - last_ns < _REJECTIONS_LOGGED_EVERY_NS:
            self._logged_rejections[reason] = (last_ns, suppressed + 1)
            return
        self._logged_rejections[reason] = (now_ns, 0)
        self._emit(
            RequestRejected, reason=reason, detail=detail, worker_pid=pid, suppressed=suppressed
        )

    def _ended(
        self, timer: Timer[Worker], scope: ScopeStatistics, now_ns: int, error: str | None
    ) -> None:
        elapsed = max(0, now_ns - timer.started_ns) / _NS
        first = timer.worker.is_warming_up(timer.scope_id)
        scope.took(elapsed, first=first, traceparent=timer.traceparent)
        after_ns = timer.deadline_ns - timer.acquired_ns
        if after_ns > 0:
            scope.after_seconds = after_ns / _NS
            scope.ratios.observe(max(0, now_ns - timer.acquired_ns) / after_ns, timer.traceparent)
        if self.observer.wants_requests:
            self._emit(
                TimerReleased,
                worker=timer.worker.info,
                timer=_info(timer),
                elapsed_seconds=elapsed,
                error=error,
            )

    # -- exits --------------------------------------------------------------------------------

    def _exited(self, worker: Worker) -> None:
        if worker.forgotten:
            return  # its pid was found recycled earlier in this step
        self._unwatch(worker)
        if worker.reaping:
            return  # its reap will find out, and tells the end of the story
        if worker.process is not None and not self._is_gone(worker):
            return
        retry = self._retries.pop(worker, None)
        if retry is not None and any(timer.live for timer in retry[1]):
            # A reap under way all the same: SIGKILL had its effect later than was waited for.
            still_alive = worker.outcome is Outcome.STILL_ALIVE
            outcome = Outcome.KILLED if still_alive else Outcome.ALREADY_GONE
            _, signal = choose(retry[1])
            self._settle(_Reaped(worker, retry[1], signal, outcome, worker.descendants))
            return
        timers = self._clear(worker)
        ending = _ending(worker.process)
        self._forget(worker)
        if worker.refusal is None:
            self._emit(WorkerExited, worker=worker.info, timers=timers, **ending)

    def _is_gone(self, worker: Worker) -> bool:
        # The kernel says so; is_running() is asked as well because in torch it is the authority
        # that a subclass overrides. It cannot vouch for a recycled pid, hence the order.
        try:
            running = self._is_running(worker.pid)
        except Exception:
            _logger.exception("is_process_running raised for %s, which has ended", worker.pid)
            running = False
        return not running or (worker.process is not None and worker.process.replaced())

    def _clear(self, worker: Worker) -> tuple[tuple[TimerInfo, float], ...]:
        """Drop every timer of ``worker``; return them with the seconds since their block began."""
        now_ns = self._clock.monotonic_ns()
        cleared = self.table.remove_worker(worker)
        for timer in cleared:
            scope = self.statistics.scope(timer.scope_id)
            scope.active -= 1
            scope.overdue -= timer.expired
        return tuple((_info(timer), (now_ns - timer.started_ns) / _NS) for timer in cleared)

    def clear(self, pids: Iterable[int]) -> None:
        """Drop every timer of these workers; they stay known."""
        with self.lock:
            for pid in pids:
                worker = self.workers.get(pid)
                if worker is not None:
                    self._clear(worker)

    def _forget(self, worker: Worker) -> None:
        worker.forgotten = True
        self._unwatch(worker)
        self.workers.close(worker)
        self.statistics.workers = self.workers.watched

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
            lateness = (now_ns - timer.deadline_ns) / _NS
            self.statistics.lateness.observe(lateness)
            scope = self.statistics.scope(timer.scope_id)
            scope.expirations += 1
            scope.overdue += 1
            self._emit(
                TimerExpired,
                worker=timer.worker.info,
                timer=_info(timer),
                elapsed_seconds=(now_ns - timer.acquired_ns) / _NS,
                lateness_seconds=lateness,
            )
            timer.worker.pending.append(timer)
            workers[timer.worker] = None
        return list(workers)

    def _look(self, now_ns: int) -> None:
        """Warn and sample at the checkpoints that were passed."""
        for timer in self.table.take_reached():
            if timer.warn_ns is not None and timer.warn_ns <= now_ns:
                timer.warn_ns = None
                self._emit(
                    TimerOverran,
                    worker=timer.worker.info,
                    timer=_info(timer),
                    elapsed_seconds=(now_ns - timer.acquired_ns) / _NS,
                )
            if self.sampler is not None:
                with contextlib.suppress(Exception):  # whatever it does, deadlines are kept
                    self.sampler.look(_running(timer, now_ns))

    def _start_reap(self, worker: Worker) -> None:
        if worker.reaping or worker in self._retries:
            return
        # Those released while an earlier reap was under way are no reason for another.
        worker.pending = [timer for timer in worker.pending if timer.live]
        if not worker.pending:
            return
        worker.reaping = True
        timers, worker.pending = worker.pending, []
        thread = threading.Thread(
            target=self._reap_on_thread,
            args=(worker, timers),
            name=f"timers-reap-{worker.pid}",
            daemon=True,
        )
        self._reaping[worker] = thread
        try:
            thread.start()
        except RuntimeError:
            # No more threads (RLIMIT_NPROC, pids cgroup): the kill matters more than the dump.
            self._reaping[worker] = None
            self._finished.append(self._end(worker, timers))
            self.wake()

    # -- reaping, on the worker's own thread ----------------------------------------------------

    def _reap_on_thread(self, worker: Worker, timers: list[Timer[Worker]]) -> None:
        try:
            self._explain(worker, timers)
        except BaseException:  # whatever goes wrong in explaining, the kill comes
            _logger.exception("could not explain why worker %s is reaped", worker.pid)
        self._finished.append(self._end(worker, timers))
        self.wake()

    def _explain(self, worker: Worker, timers: list[Timer[Worker]]) -> None:
        chosen, _ = choose(timers)
        requests = {worker.pid: [_torch_json(timer) for timer in timers]}
        before_kill = self._before_kill()
        started_ns = self._clock.monotonic_ns()
        try:
            stacks = call_bounded(
                lambda: before_kill(self._run_id, requests),
                self._policy.dump_timeout + _DUMP_OVERRUN_SECONDS,
                f"timers-dump-{worker.pid}",
            )
            dump = stacks.get(worker.pid) if isinstance(stacks, dict) else None
        except BaseException as error:  # noqa: BLE001  # somebody else's: even SystemExit
            reason = f"the step before the kill failed: {type(error).__name__}: {error}"
            seconds = (self._clock.monotonic_ns() - started_ns) / _NS
            dump = StackDump(pid=worker.pid, method="none", seconds=seconds, error=reason)
        if isinstance(dump, StackDump):
            with self.lock:  # workers that expire together are explained on threads of their own
                self.statistics.dumped(
                    dump.method,
                    ok=bool(dump.threads),
                    seconds=dump.seconds,
                    traceparent=chosen.traceparent,
                )
            self._emit(
                StackDumped,
                worker=worker.info,
                timer=_info(chosen),
                elapsed_seconds=self._elapsed(chosen),
                dump=dump,
            )
        with contextlib.suppress(Exception):  # an observer cannot prevent a kill
            self.observer.flush(self._policy.flush_timeout)

    def _end(self, worker: Worker, timers: list[Timer[Worker]]) -> _Reaped:
        _, signal = choose(timers)
        if signal <= 0:
            return _Reaped(worker, timers, 0, None, [])
        worker.outcome = None
        worker.descendants = []
        try:
            done = self._reap(worker.pid, signal)
        except BaseException:
            _logger.exception(
                "_reap_worker raised for worker %s, which counts as reaped; "
                "it should return False for a worker that is still there",
                worker.pid,
            )
            return _Reaped(worker, timers, signal, Outcome.ERROR, [])
        outcome = worker.outcome or (Outcome.KILLED if done else Outcome.STILL_ALIVE)
        if not done and not outcome.failed:
            outcome = Outcome.STILL_ALIVE
        return _Reaped(worker, timers, signal, outcome, worker.descendants)

    def terminate(self, pid: int, signal: int) -> bool:
        """What ``_reap_worker`` does unless overridden: end ``pid``, true when it is gone.

        Blocks for up to twice the grace period. False for a process that may not be reaped.
        """
        with self.lock:
            worker = self._being_reaped(pid) or self.workers.get(pid)
            adhoc = worker is None
            if worker is None:
                worker = self.workers.open(pid)
        try:
            if worker.refusal is not None:
                return False
            if worker.process is None:
                worker.outcome = Outcome.ALREADY_GONE
            else:
                worker.outcome, worker.descendants = terminate(
                    worker.process,
                    signal,
                    grace=self._policy.grace,
                    process_tree=self._policy.process_tree,
                )
            return not worker.outcome.failed
        finally:
            if adhoc:
                with self.lock:
                    self.workers.close(worker)

    def _being_reaped(self, pid: int) -> Worker | None:
        # Its pid may have been recycled since its timers expired, and registered for another.
        me = threading.current_thread()
        for worker, thread in self._reaping.items():
            if worker.pid == pid and thread in (me, None):
                return worker
        return None

    # -- back on the watchdog's thread ----------------------------------------------------------

    def _settle(self, reaped: _Reaped) -> None:
        worker = reaped.worker
        worker.reaping = False
        self._reaping.pop(worker, None)
        timer, _ = choose(reaped.timers)
        if reaped.outcome is None:
            if worker.process is None or (worker.process.exited() and self._is_gone(worker)):
                self._exited(worker)
            else:
                self._start_reap(worker)
            return
        scope = self.statistics.scope(timer.scope_id)
        scope.reaps[reaped.outcome] += 1
        if reaped.outcome.failed:
            self._retry(reaped, timer, reaped.outcome)
            return
        timers = self._clear(worker)
        worker.pending = []
        self._forget(worker)
        self._emit(
            WorkerKilled,
            worker=worker.info,
            timer=_info(timer),
            elapsed_seconds=self._elapsed(timer),
            signal=reaped.signal,
            outcome=reaped.outcome,
            timers=timers,
            descendants=tuple(reaped.descendants),
        )

    def _retry(self, reaped: _Reaped, timer: Timer[Worker], outcome: Outcome) -> None:
        worker = reaped.worker
        worker.attempts += 1
        delay = retry_delay(worker.attempts)
        self._retries[worker] = (
            self._clock.monotonic_ns() + int(delay * _NS),
            reaped.timers,
        )
        self._emit(
            ReapFailed,
            worker=worker.info,
            timer=_info(timer),
            elapsed_seconds=self._elapsed(timer),
            signal=reaped.signal,
            outcome=outcome,
            attempt=worker.attempts,
            retry_in_seconds=delay,
        )

    def settle(self, timeout: float) -> bool:
        """Wait until no reap is under way and take up the results; false when time ran out.

        For callers of a single step and for stopping; in the loop results arrive by themselves.
        """
        deadline_ns = self._clock.monotonic_ns() + int(timeout * _NS)
        for thread in list(self._reaping.values()):
            if thread is not None:
                thread.join(max(0, deadline_ns - self._clock.monotonic_ns()) / _NS)
        with self.lock:
            while self._finished:
                self._settle(self._finished.popleft())
            return not self._reaping

    # -- events and the end ---------------------------------------------------------------------

    def _elapsed(self, timer: Timer[Worker]) -> float:
        return (self._clock.monotonic_ns() - timer.acquired_ns) / _NS

    def _emit(self, kind: type[Event], **fields: Any) -> None:
        with contextlib.suppress(Exception):  # telling cannot prevent doing
            self.observer.emit(kind(timestamp=self._clock.time(), run_id=self._run_id, **fields))

    def started(self, address: str, max_interval: float) -> None:
        """Tell the observer that the server listens."""
        self._emit(WatchdogStarted, address=address, max_interval_seconds=max_interval)

    def running(self, limit: int | None = None) -> list[RunningTimer]:
        """The ``limit`` most urgent of the timers that run, or that expired and are still open."""
        with self.lock:  # only for the copy: the watchdog waits for it
            timers = list(self.table)
        now_ns = self._clock.monotonic_ns()
        most = len(timers) if limit is None else limit
        return [
            _running(timer, now_ns)
            for timer in heapq.nsmallest(most, timers, key=lambda timer: timer.deadline_ns)
        ]

    def known_workers(self) -> list[WorkerInfo]:
        """Every worker that sent a request and has not been seen to exit."""
        with self.lock:
            return [worker.info for worker in self.workers if worker.refusal is None]

    def stopped(self) -> None:
        """Tell the observer that the server no longer listens, and what nobody watches now."""
        with self.lock:
            now_ns = self._clock.monotonic_ns()
            timers = tuple(
                (timer.worker.info, _info(timer), (now_ns - timer.started_ns) / _NS)
                for timer in self.table
            )
        self._emit(WatchdogStopped, timers=timers)

    def close(self) -> None:
        """Give back every descriptor. Idempotent; the table stays readable."""
        if self._closed:
            return
        self._closed = True
        _open_watchdogs.discard(self)
        for worker in self.workers:
            if worker.process is not None:
                worker.process.close()
        self._epoll.close()
        with contextlib.suppress(OSError):
            os.close(self._wake_fd)
        self._wake_fd = -1


_REFUSALS: Mapping[str, str] = {
    "protected_process": "pid {pid} is init, this server, an ancestor of it or not a process",
    "other_user": "process {pid} runs as another user than this server",
    "outside_job": "process {pid} is not a descendant of the supervised command",
}


def _has_ended(worker: Worker) -> bool:
    return worker.process is None or worker.process.exited()


def _ending(process: Process | None) -> dict[str, int]:
    """What a process exited with, or the signal that ended it, where the kernel tells."""
    status = None if process is None else process.exit_status()
    if status is None:
        return {}
    code = os.waitstatus_to_exitcode(status)
    return {"exit_code": code} if code >= 0 else {"exit_signal": -code}


def _info(timer: Timer[Worker]) -> TimerInfo:
    return TimerInfo(
        scope_id=timer.scope_id,
        expiration_time=timer.expiration_time,
        after_seconds=(timer.deadline_ns - timer.acquired_ns) / _NS,
        signal=timer.signal,
        thread=timer.thread,
        traceparent=timer.traceparent,
        span_id=timer.span_id,
    )


def _running(timer: Timer[Worker], now_ns: int) -> RunningTimer:
    return RunningTimer(
        worker=timer.worker.info,
        timer=_info(timer),
        age_seconds=max(0, now_ns - timer.started_ns) / _NS,
        remaining_seconds=(timer.deadline_ns - now_ns) / _NS,
        expired=timer.expired,
    )


def _torch_json(timer: Timer[Worker]) -> str:
    return request_json(timer.worker.pid, timer.scope_id, timer.expiration_time, timer.signal)


_open_watchdogs: weakref.WeakSet[Watchdog] = weakref.WeakSet()


def _close_in_child() -> None:
    # A forked child that kept them would hold the pipe open for a server that has died, and the
    # epoll instance is shared with the parent: closing is all that may be done with it here.
    for watchdog in list(_open_watchdogs):
        watchdog.close()


os.register_at_fork(after_in_child=_close_in_child)
