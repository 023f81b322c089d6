"""The end of stuck workers: one thread for each, which explains, kills, confirms and reports back.

The watchdog's thread only starts these threads and takes up what they hand back, so that nothing
that takes time here holds up another worker or the reading of requests.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, NamedTuple

from timers.events import Outcome, StackDumped
from timers.stacks.dump import StackDump

from ._ledger import NS, timer_info, torch_json
from .reaper import call_bounded, choose, terminate

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._ledger import Ledger
    from ._table import Timer
    from .reaper import BeforeKill, ReapPolicy
    from .roster import Roster
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
        self._under_way: dict[Worker, _Reap] = {}

    # -- on the watchdog's thread ---------------------------------------------------------------

    def __contains__(self, worker: Worker) -> bool:
        """Whether ``worker`` is being reaped, or the end of that has not been taken up."""
        return worker in self._under_way

    def __bool__(self) -> bool:
        """Whether any worker is."""
        return bool(self._under_way)

    def start(self, worker: Worker, timers: list[Timer[Worker]]) -> None:
        """Begin to reap ``worker``, because of ``timers``."""
        reap = _Reap(worker, timers)
        thread = threading.Thread(
            target=self._run, args=(reap,), name=f"timers-reap-{worker.pid}", daemon=True
        )
        reap.thread = thread
        self._under_way[worker] = reap
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            # The kill matters more than the dump.
            reap.thread = None
            reason = f"no thread could be started to take the stack: {error or 'out of memory'}"
            limits = "ulimit -u, ulimit -v, the pids and memory limits of the cgroup"
            with contextlib.suppress(Exception):
                self._tell(timers, _no_dump(worker, f"{reason} ({limits})"))
            self._finish(reap)

    def finished(self) -> list[Worker]:
        """Whose reaps have come to their end."""
        # A thread that died of an error has left what it began with: a reap that failed.
        return [
            worker
            for worker, reap in self._under_way.items()
            if reap.done or (reap.thread is not None and not reap.thread.is_alive())
        ]

    def take(self, worker: Worker) -> Reaped:
        """What came of a finished reap; its worker may be reaped again from here on."""
        return self._under_way.pop(worker).result

    def join(self, timeout: float) -> None:
        """Wait until every reap under way has come to its end, at most ``timeout`` seconds."""
        deadline_ns = self._ledger.clock.monotonic_ns() + int(timeout * NS)
        for reap in list(self._under_way.values()):
            if reap.thread is not None:
                reap.thread.join(max(0, deadline_ns - self._ledger.clock.monotonic_ns()) / NS)

    # -- on the worker's reaping thread ---------------------------------------------------------

    def _run(self, reap: _Reap) -> None:
        worker, timers = reap.result.worker, reap.result.timers
        try:
            self._explain(worker, timers)
        except BaseException:  # whatever goes wrong in explaining, the kill comes
            _logger.exception("could not explain why worker %s is reaped", worker.pid)
        finally:
            self._finish(reap)

    def _finish(self, reap: _Reap) -> None:
        try:
            reap.result = self._end(reap.result)
        finally:
            reap.done = True
            self._roster.wake()

    def _explain(self, worker: Worker, timers: list[Timer[Worker]]) -> None:
        ledger = self._ledger
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
            dump = _no_dump(worker, reason, (ledger.clock.monotonic_ns() - started_ns) / NS)
        if isinstance(dump, StackDump):
            self._tell(timers, dump)
        with contextlib.suppress(Exception):  # an observer cannot prevent a kill
            ledger.observer.flush(self._policy.flush_timeout)

    def _tell(self, timers: list[Timer[Worker]], dump: StackDump) -> None:
        chosen, _ = choose(timers)
        ledger = self._ledger
        with ledger.lock:  # workers that expire together are explained on threads of their own
            ledger.statistics.dumped(
                dump.method,
                ok=bool(dump.threads),
                seconds=dump.seconds,
                traceparent=chosen.traceparent,
            )
        ledger.emit(
            StackDumped,
            worker=chosen.worker.info,
            timer=timer_info(chosen),
            elapsed_seconds=ledger.elapsed(chosen),
            dump=dump,
        )

    def _end(self, begun: Reaped) -> Reaped:
        worker, signal = begun.worker, begun.signal
        if begun.outcome is None:
            return begun
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
            return begun._replace(outcome=Outcome.ERROR)
        outcome = worker.outcome or (Outcome.KILLED if done else Outcome.STILL_ALIVE)
        if not done and not outcome.failed:
            outcome = Outcome.STILL_ALIVE
        return begun._replace(outcome=outcome, descendants=worker.descendants)

    def terminate(self, pid: int, signal: int) -> bool:
        """What ``_reap_worker`` does unless overridden: end ``pid``, true when it is gone.

        Blocks for up to twice the grace period. False for a process that may not be reaped, and
        when it cannot be known to be gone: an error of ours must not pass for a worker's end.
        """
        workers = self._roster.workers
        adhoc = None
        try:
            with self._ledger.lock:
                worker = self._mine(pid) or workers.by_pid.get(pid)
                if worker is None:
                    worker = adhoc = workers.open(pid)
            return self._terminate(worker, signal)
        except Exception:
            _logger.exception("could not end worker %s; that is tried again", pid)
            return False
        finally:
            if adhoc is not None:
                with self._ledger.lock:
                    workers.close(adhoc)

    def _terminate(self, worker: Worker, signal: int) -> bool:
        if worker.refusal is not None:
            return False
        if worker.process is None:
            worker.outcome = Outcome.ALREADY_GONE
        elif self._roster.workers.has_changed_user(worker):
            # It was a worker once, and is another user's process by now (a set-user-ID program).
            worker.outcome = Outcome.NOT_PERMITTED
        else:
            worker.outcome, worker.descendants = terminate(
                worker.process,
                signal,
                grace=self._policy.grace,
                process_tree=self._policy.process_tree,
            )
        return not worker.outcome.failed

    def _mine(self, pid: int) -> Worker | None:
        # Its pid may have been recycled since its timers expired, and registered for another.
        me = threading.current_thread()
        for worker, reap in self._under_way.items():
            if worker.pid == pid and reap.thread in (me, None):
                return worker
        return None


class _Reap:
    """One reap under way."""

    __slots__ = ("done", "result", "thread")

    def __init__(self, worker: Worker, timers: list[Timer[Worker]]) -> None:
        _, signal = choose(timers)
        outcome = Outcome.STILL_ALIVE if signal > 0 else None
        self.result = Reaped(worker, timers, max(0, signal), outcome, [])
        """What is handed back; until it has come to an end, that it failed."""
        self.done = False
        self.thread: threading.Thread | None = None
        """None when it has none of its own."""


def _no_dump(worker: Worker, reason: str, seconds: float = 0.0) -> StackDump:
    return StackDump(pid=worker.pid, method="none", seconds=seconds, error=reason)
