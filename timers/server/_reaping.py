"""The end of stuck workers: one thread for each, which explains, kills, confirms and reports back.

The watchdog's thread only starts these threads and takes what they hand back, so that nothing that
takes time here holds up another worker or the reading of requests.

A kill goes one way: this module, :func:`timers.server.reaper.terminate`, the process. It takes the
detour over a pid where somebody replaced ``_reap_worker``, whose contract (torch's) has only that.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from timers.bounded import HANDOVER_SECONDS, call_until, left
from timers.events import Outcome, StackDumped
from timers.stacks.dump import StackDump
from timers.transport.wire import request_json

from .process_tree import ProcessTree, helpers_of
from .reaper import choose, terminate

if TYPE_CHECKING:
    from collections.abc import Callable

    from timers.linux.promptness import Promptness

    from ._state import State
    from .reaper import ReapPolicy, Step
    from .table import Timer
    from .workers import Worker, Workers

_logger = logging.getLogger(__name__)


class Reap:
    """One reap: what it is for, and what came of it."""

    def __init__(self, worker: Worker, timers: list[Timer[Worker]]) -> None:
        self.worker = worker
        self.timers = timers
        self.timer, signal = choose(timers)
        self.signal = max(0, signal)
        self.outcome = Outcome.STILL_ALIVE if signal > 0 else None
        """None when it is only observed; until it has come to an end, that it failed."""
        self.confirmed: Outcome | None = None
        """How the kill itself came out; None where a replaced ``_reap_worker`` made none."""
        self.descendants: list[int] = []
        """Which descendants of the worker were killed with it."""
        self.done = False
        self.thread: threading.Thread | None = None
        """None when it has none of its own."""


class Reaping:
    """The reaps under way of one server.

    :param state: counts and emits.
    :param workers: are woken when a reap has finished.
    :param policy: how stuck workers are ended.
    :param replaced_reap: returns the ``_reap_worker(pid, signal)`` that somebody put in the place
        of ours (looked up anew each time), if any. True when it is done with; what it raises counts
        as done. Called on the worker's reaping thread.
    :param before_kill: returns the step that runs before a kill (looked up anew each time), given
        the moment of time.monotonic() by which that has to be done.
    :param promptness: of the watchdog's thread.
    """

    def __init__(
        self,
        state: State,
        workers: Workers,
        policy: ReapPolicy,
        replaced_reap: Callable[[], Callable[[int, int], bool] | None],
        before_kill: Callable[[float], Step],
        *,
        promptness: Promptness,
    ) -> None:
        self._state = state
        self._workers = workers
        self._policy = policy
        self._replaced_reap = replaced_reap
        self._before_kill = before_kill
        self._promptness = promptness
        self._under_way: dict[Worker, Reap] = {}

    # -- on the watchdog's thread ---------------------------------------------------------------

    def __contains__(self, worker: Worker) -> bool:
        """Return whether ``worker`` is being reaped, or the end of that was not taken yet."""
        return worker in self._under_way

    def __bool__(self) -> bool:
        """Return whether any worker is."""
        return bool(self._under_way)

    def start(self, worker: Worker, timers: list[Timer[Worker]]) -> None:
        """Begin to reap ``worker``, because of ``timers``."""
        reap = Reap(worker, timers)
        thread = threading.Thread(
            target=self._run, args=(reap,), name=f"timers-reap-{worker.pid}", daemon=True
        )
        reap.thread = thread
        self._under_way[worker] = reap
        try:
            with self._promptness.handed_on():
                thread.start()
        except (RuntimeError, MemoryError) as error:
            # The kill matters more than the dump.
            reap.thread = None
            reason = f"no thread could be started to take the stack: {error or 'out of memory'}"
            limits = "ulimit -u, ulimit -v, the pids and memory limits of the cgroup"
            with contextlib.suppress(Exception):
                self._report(reap, _no_dump(worker, f"{reason} ({limits})"))
            self._finish(reap)

    def finished(self) -> list[Worker]:
        """Return whose reaps have come to their end."""
        # A thread that died of an error has left what it began with: a reap that failed.
        return [
            worker
            for worker, reap in self._under_way.items()
            if reap.done or (reap.thread is not None and not reap.thread.is_alive())
        ]

    def take(self, worker: Worker) -> Reap:
        """Return a finished reap; its worker may be reaped again from here on."""
        return self._under_way.pop(worker)

    def join(self, timeout: float) -> None:
        """Wait until every reap under way has come to its end, at most ``timeout`` seconds."""
        until = time.monotonic() + timeout
        for reap in list(self._under_way.values()):
            if reap.thread is not None:
                reap.thread.join(left(until))

    # -- on the worker's reaping thread ---------------------------------------------------------

    def _run(self, reap: Reap) -> None:
        try:
            self._explain(reap)
        except BaseException:  # whatever goes wrong in explaining, the kill comes
            _logger.exception("could not explain why worker %s is reaped", reap.worker.pid)
        finally:
            self._finish(reap)

    def _finish(self, reap: Reap) -> None:
        try:
            if reap.outcome is not None:
                self._end(reap)
        finally:
            reap.done = True
            self._workers.wake()

    def _explain(self, reap: Reap) -> None:
        worker = reap.worker
        requests = [
            request_json(worker.pid, timer.scope_id, timer.expiration_time, timer.signal)
            for timer in reap.timers
        ]
        started = time.monotonic()
        until = started + self._policy.dump_timeout
        try:
            step = self._before_kill(until)
            call = partial(self._call, step, {worker.pid: requests})
            if step.keeps_bound:
                stacks = call()
            else:
                bound = until + HANDOVER_SECONDS
                stacks = call_until(bound, call, f"timers-dump-{worker.pid}")
            dump = stacks.get(worker.pid) if isinstance(stacks, dict) else None
        except BaseException as error:  # noqa: BLE001  # somebody else's: even SystemExit
            reason = f"the step before the kill failed: {type(error).__name__}: {error}"
            dump = _no_dump(worker, reason, time.monotonic() - started)
        if isinstance(dump, StackDump):
            self._report(reap, dump)
        with contextlib.suppress(Exception):  # an observer cannot prevent a kill
            self._state.observer.flush(self._policy.flush_timeout)

    def _call(self, step: Step, requests: dict[int, list[str]]) -> object:
        self._promptness.guard()
        return step.call(self._state.run_id, requests)

    def _report(self, reap: Reap, dump: StackDump) -> None:
        with self._state.lock:  # workers that expire together have a thread each
            self._state.statistics.dumped(
                dump.method,
                ok=bool(dump.threads),
                seconds=dump.seconds,
                traceparent=reap.timer.traceparent,
            )
        self._state.emit_timer(StackDumped, reap.timer, dump=dump)

    def _end(self, reap: Reap) -> None:
        self._promptness.guard()
        worker, signal = reap.worker, reap.signal
        replaced = self._replaced_reap()
        if replaced is None:
            try:
                reap.outcome = self._terminate(worker, signal, reap)
            except Exception:  # an error of ours must not pass for a worker's end
                _logger.exception("could not end worker %s; that is tried again", worker.pid)
            return
        try:
            done = replaced(worker.pid, signal)
        except BaseException:
            _logger.exception(
                "_reap_worker raised for worker %s, which counts as reaped; "
                "it should return False for a worker that is still there",
                worker.pid,
            )
            reap.outcome = Outcome.ERROR
            return
        outcome = reap.confirmed or Outcome.KILLED
        reap.outcome = outcome if done or outcome.failed else Outcome.STILL_ALIVE

    def terminate(self, pid: int, signal: int) -> bool:
        """End ``pid``, for a ``_reap_worker`` that was replaced; return true when it is gone.

        Blocks for up to twice the grace period. False for a process that may not be reaped, and
        when it cannot be known to be gone.
        """
        stranger = None
        try:
            with self._state.lock:
                reap = self._of_this_thread(pid)
                worker = reap.worker if reap else self._workers.by_pid.get(pid)
                if worker is None:
                    worker = stranger = self._workers.register(pid)
            if worker.refusal is not None:
                return False
            return not self._terminate(worker, signal, reap).failed
        except Exception:
            _logger.exception("could not end worker %s; that is tried again", pid)
            return False
        finally:
            if stranger is not None:
                with self._state.lock:
                    self._workers.forget(stranger)

    def _terminate(self, worker: Worker, signal: int, reap: Reap | None) -> Outcome:
        policy = self._policy
        outcome, descendants = Outcome.ALREADY_GONE, list[int]()
        if worker.process is not None and self._workers.has_changed_user(worker):
            # It was a worker once, and is another user's process by now (a set-user-ID program).
            outcome = Outcome.NOT_PERMITTED
        elif worker.process is not None:
            outcome, descendants = terminate(
                worker.process, signal, grace=policy.grace, tree=self._tree(worker)
            )
        if reap is not None:
            reap.confirmed, reap.descendants = outcome, descendants
        return outcome

    def _tree(self, worker: Worker) -> ProcessTree | None:
        if self._policy.kill_tree == "helpers":
            return helpers_of(worker, self._workers)
        return ProcessTree() if self._policy.kill_tree == "all" else None

    def _of_this_thread(self, pid: int) -> Reap | None:
        # By the thread as well: the pid may have been recycled since the timers expired, and
        # belong to another worker that is being reaped.
        me = threading.current_thread()
        for reap in list(self._under_way.values()):  # others begin and end meanwhile
            if reap.worker.pid == pid and reap.thread in (me, None):
                return reap
        return None


def _no_dump(worker: Worker, reason: str, seconds: float = 0.0) -> StackDump:
    return StackDump(pid=worker.pid, method="none", seconds=seconds, error=reason)
