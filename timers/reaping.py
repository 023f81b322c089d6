"""The end of stuck workers: one thread for each, which explains, kills, confirms and reports back.

The watchdog's thread only starts these threads and takes up what they hand back, so that nothing
that takes time here holds up another worker or the reading of requests.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from .events import Outcome, StackDumped
from .ledger import NS, timer_info, torch_json
from .reaper import call_bounded, choose, terminate
from .stacks import StackDump

if TYPE_CHECKING:
    from collections.abc import Callable

    from .ledger import Ledger
    from .reaper import BeforeKill, ReapPolicy
    from .roster import Roster
    from .table import Timer
    from .workers import Worker

__all__ = ["Reaped", "Reaping"]

_logger = logging.getLogger(__name__)
_DUMP_OVERRUN_SECONDS = 0.5
"""A step that is about to give up by itself knows more than that it took too long."""


class Reaped(NamedTuple):
    """What a reaping thread hands back."""

    worker: Worker
    timers: list[Timer[Worker]]
    signal: int
    outcome: Outcome | None
    """None when it was only observed."""
    descendants: list[int]


class Reaping:
    """The reaps under way of one server.

    :param ledger: counts and tells.
    :param roster: is woken when a reap has finished.
    :param policy: how stuck workers are ended.
    :param reap: ends a worker: ``reap(pid, signal)`` as in torch, true when it is done with. What
        it raises counts as done. Called on the worker's reaping thread.
    :param before_kill: gives the step that runs before a kill (looked up anew each time).
    """

    def __init__(
        self,
        ledger: Ledger,
        roster: Roster,
        policy: ReapPolicy,
        reap: Callable[[int, int], bool],
        before_kill: Callable[[], BeforeKill],
    ) -> None:
        self._ledger = ledger
        self._roster = roster
        self._policy = policy
        self._reap = reap
        self._before_kill = before_kill
        self._finished: deque[Reaped] = deque()
        self._threads: dict[Worker, threading.Thread | None] = {}
        """Of each worker whose reap is under way; None when it has none of its own."""

    # -- on the watchdog's thread ---------------------------------------------------------------

    def start(self, worker: Worker) -> None:
        """Begin to reap ``worker`` for its pending timers."""
        worker.reaping = True
        timers, worker.pending = worker.pending, []
        thread = threading.Thread(
            target=self._run,
            args=(worker, timers),
            name=f"timers-reap-{worker.pid}",
            daemon=True,
        )
        self._threads[worker] = thread
        try:
            thread.start()
        except RuntimeError:
            # No more threads (RLIMIT_NPROC, pids cgroup): the kill matters more than the dump.
            self._threads[worker] = None
            self._finished.append(self._end(worker, timers))
            self._roster.wake()

    def take_finished(self) -> Reaped | None:
        """One reap that has come to its end; its worker may be reaped again from here on."""
        if not self._finished:
            return None
        reaped = self._finished.popleft()
        reaped.worker.reaping = False
        self._threads.pop(reaped.worker, None)
        return reaped

    def join(self, timeout: float) -> None:
        """Wait until every reap under way has come to its end, at most ``timeout`` seconds."""
        deadline_ns = self._ledger.clock.monotonic_ns() + int(timeout * NS)
        for thread in list(self._threads.values()):
            if thread is not None:
                thread.join(max(0, deadline_ns - self._ledger.clock.monotonic_ns()) / NS)

    def __bool__(self) -> bool:
        """Whether a reap is under way, or its end has not been taken up."""
        return bool(self._threads)

    # -- on the worker's reaping thread ---------------------------------------------------------

    def _run(self, worker: Worker, timers: list[Timer[Worker]]) -> None:
        try:
            self._explain(worker, timers)
        except BaseException:  # whatever goes wrong in explaining, the kill comes
            _logger.exception("could not explain why worker %s is reaped", worker.pid)
        self._finished.append(self._end(worker, timers))
        self._roster.wake()

    def _explain(self, worker: Worker, timers: list[Timer[Worker]]) -> None:
        ledger = self._ledger
        chosen, _ = choose(timers)
        requests = {worker.pid: [torch_json(timer) for timer in timers]}
        before_kill = self._before_kill()
        started_ns = ledger.clock.monotonic_ns()
        try:
            stacks = call_bounded(
                lambda: before_kill(ledger.run_id, requests),
                self._policy.dump_timeout + _DUMP_OVERRUN_SECONDS,
                f"timers-dump-{worker.pid}",
            )
            dump = stacks.get(worker.pid) if isinstance(stacks, dict) else None
        except BaseException as error:  # noqa: BLE001  # somebody else's: even SystemExit
            reason = f"the step before the kill failed: {type(error).__name__}: {error}"
            seconds = (ledger.clock.monotonic_ns() - started_ns) / NS
            dump = StackDump(pid=worker.pid, method="none", seconds=seconds, error=reason)
        if isinstance(dump, StackDump):
            with ledger.lock:  # workers that expire together are explained on threads of their own
                ledger.statistics.dumped(
                    dump.method,
                    ok=bool(dump.threads),
                    seconds=dump.seconds,
                    traceparent=chosen.traceparent,
                )
            ledger.emit(
                StackDumped,
                worker=worker.info,
                timer=timer_info(chosen),
                elapsed_seconds=ledger.elapsed(chosen),
                dump=dump,
            )
        with contextlib.suppress(Exception):  # an observer cannot prevent a kill
            ledger.observer.flush(self._policy.flush_timeout)

    def _end(self, worker: Worker, timers: list[Timer[Worker]]) -> Reaped:
        _, signal = choose(timers)
        if signal <= 0:
            return Reaped(worker, timers, 0, None, [])
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
            return Reaped(worker, timers, signal, Outcome.ERROR, [])
        outcome = worker.outcome or (Outcome.KILLED if done else Outcome.STILL_ALIVE)
        if not done and not outcome.failed:
            outcome = Outcome.STILL_ALIVE
        return Reaped(worker, timers, signal, outcome, worker.descendants)

    def terminate(self, pid: int, signal: int) -> bool:
        """What ``_reap_worker`` does unless overridden: end ``pid``, true when it is gone.

        Blocks for up to twice the grace period. False for a process that may not be reaped.
        """
        workers = self._roster.workers
        with self._ledger.lock:
            worker = self._mine(pid) or workers.get(pid)
            adhoc = worker is None
            if worker is None:
                worker = workers.open(pid)
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
                with self._ledger.lock:
                    workers.close(worker)

    def _mine(self, pid: int) -> Worker | None:
        # Its pid may have been recycled since its timers expired, and registered for another.
        me = threading.current_thread()
        for worker, thread in self._threads.items():
            if worker.pid == pid and thread in (me, None):
                return worker
        return None
