"""At the first expiry, look at every worker of the run, and say who is the odd one out.

The step before a kill of a whole job: the first worker that expires calls the roll, those that
expire meanwhile wait for it, and nobody is signalled before it is over or its bound has passed.
As the sampler of a server it also looks at workers while their timers still run, so that the
report can tell a stuck worker from a slow one.

Looks run on a few threads of their own; a look that comes when all are busy and many wait is
skipped, because a late sample says nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from .hang_input import Look, WorkerView
from .hang_report import HangReport, analyse
from .look import descendants, look_at
from .process_facts import add_open_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from timers.events import WorkerInfo
    from timers.server import WatchdogServer
    from timers.stacks import StackDump
    from timers.watchdog import RunningTimer

__all__ = ["RollCall"]

_LOOKING_THREADS = 4
_MOST_WAITING = 64
_KEPT_LOOKS = 6
_ROUNDS = 3
_BETWEEN_ROUNDS_SECONDS = 0.2
"""Between looks at a worker that has no sample yet: what is stuck shows in that it stays."""
_MARGIN_SECONDS = 0.5
"""Taken off the bound for the analysis and for handing the result over."""
_SAME_EPISODE_SECONDS = 1.0


class RollCall:
    """The step before a kill and the sampler of one server.

    :param tell: is given each report; must not block.
    :param host: this machine's name.
    :param timeout: seconds, the bound of the whole step, as in ``ReapPolicy.dump_timeout``.
    :param sample_at: shares of a timer's ``after`` at which to look at its worker beforehand.
    :param sample_from: seconds; timers shorter than this are not sampled. 0 turns sampling off.
    :param native: whether stacks have C frames, too.
    """

    def __init__(
        self,
        tell: Callable[[HangReport], None],
        *,
        host: str,
        timeout: float = 5.0,
        sample_at: Sequence[float] = (0.5, 0.9),
        sample_from: float = 10.0,
        native: bool = False,
    ) -> None:
        self._tell = tell
        self._host = host
        self._timeout = max(0.0, timeout - _MARGIN_SECONDS)
        self._sample_at = tuple(sample_at)
        self._sample_from = sample_from
        self._native = native
        self._server: WatchdogServer | None = None
        self._pool = ThreadPoolExecutor(_LOOKING_THREADS, thread_name_prefix="timers-look")
        self._lock = threading.Lock()
        self._looks: dict[WorkerInfo, deque[Look]] = {}
        self._waiting = 0
        self._episode: Future[dict[int, StackDump]] | None = None
        self._episode_ended = 0.0

    def attach(self, server: WatchdogServer) -> None:
        """Call the roll of this server's workers; to be called before it is started."""
        self._server = server
        if self._sample_from > 0 and self._sample_at:
            server.sampler = self

    def close(self) -> None:
        """End the threads that look; a look under way is left to its own bound."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # -- sampling -------------------------------------------------------------------------------

    def moments(self, after_seconds: float) -> tuple[float, ...]:
        """When to look at the worker of a timer of ``after_seconds``."""
        if after_seconds < self._sample_from:
            return ()
        return tuple(share * after_seconds for share in self._sample_at)

    def look(self, running: RunningTimer) -> None:
        """Look at a worker soon. Never blocks."""
        with self._lock:
            if self._waiting >= _MOST_WAITING:
                return
            self._waiting += 1
        try:
            self._pool.submit(self._sample, running)
        except RuntimeError:  # closed, or no more threads to be had
            with self._lock:
                self._waiting -= 1

    def _sample(self, running: RunningTimer) -> None:
        try:
            worker = running.worker
            thread = running.timer.thread
            self._note(worker, look_at(_pid(worker), thread=thread, timeout=self._timeout))
            self._forget_the_gone()
        finally:
            with self._lock:
                self._waiting -= 1

    def _note(self, worker: WorkerInfo, look: Look) -> None:
        with self._lock:
            self._looks.setdefault(worker, deque(maxlen=_KEPT_LOOKS)).append(look)

    def _forget_the_gone(self) -> None:
        known = set(self._server.known_workers()) if self._server else set()
        with self._lock:
            for worker in [each for each in self._looks if each not in known]:
                del self._looks[worker]

    # -- the roll call --------------------------------------------------------------------------

    def before_kill(
        self, run_id: str, expired_timers: dict[int, list[str]]
    ) -> dict[int, StackDump]:
        """Take the stacks of all workers, tell the report, return those of the expired ones."""
        del run_id
        calling = False
        with self._lock:
            episode = self._episode
            recent = time.monotonic() - self._episode_ended < _SAME_EPISODE_SECONDS
            if episode is None or (episode.done() and not recent):
                calling = True
                episode = self._episode = Future()
        if calling:
            try:
                episode.set_result(self._call_the_roll(expired_timers))
            except BaseException as error:  # those who wait must not wait for ever
                episode.set_exception(error)
                raise
            finally:
                self._episode_ended = time.monotonic()
        dumps = episode.result(self._timeout)
        return {pid: dumps[pid] if pid in dumps else self._dump(pid) for pid in expired_timers}

    def _dump(self, pid: int) -> StackDump:
        look = look_at(pid, thread=None, timeout=self._timeout, native=self._native)
        return add_open_files(look.dump)

    def _call_the_roll(self, expired: dict[int, list[str]]) -> dict[int, StackDump]:
        deadline = time.monotonic() + self._timeout
        workers = self._server.known_workers() if self._server else []
        timers = _innermost(self._server.running_timers() if self._server else [])
        for number in range(_ROUNDS):
            left = deadline - time.monotonic()
            if number and left < 2 * _BETWEEN_ROUNDS_SECONDS:
                break
            if number:
                time.sleep(_BETWEEN_ROUNDS_SECONDS)
            self._look_at_all(workers, timers, left)
        left = max(0.0, deadline - time.monotonic())
        views = self._views(workers, timers, set(expired), left)
        dumps = {
            _pid(view.worker): add_open_files(view.looks[-1].dump) for view in views if view.looks
        }
        self._tell(analyse(views))
        return dumps

    def _look_at_all(
        self, workers: Sequence[WorkerInfo], timers: dict[WorkerInfo, RunningTimer], left: float
    ) -> None:
        def look(worker: WorkerInfo) -> None:
            running = timers.get(worker)
            thread = None if running is None else running.timer.thread
            found = look_at(_pid(worker), thread=thread, timeout=left, native=self._native)
            self._note(worker, found)

        wait([self._pool.submit(look, worker) for worker in workers], left)

    def _views(
        self,
        workers: Sequence[WorkerInfo],
        timers: dict[WorkerInfo, RunningTimer],
        expired: set[int],
        left: float,
    ) -> list[WorkerView]:
        share = left / max(1, len(workers))
        views = []
        for worker in workers:
            with self._lock:
                looks = tuple(self._looks.get(worker, ()))
            running = timers.get(worker)
            views.append(
                WorkerView(
                    worker=worker,
                    host=self._host,
                    looks=looks,
                    gone=None if looks else "gave no stack",
                    scope_id=None if running is None else running.timer.scope_id,
                    thread=None if running is None else running.timer.thread,
                    expired=worker.pid in expired,
                    after_seconds=None if running is None else running.timer.after_seconds,
                    elapsed_seconds=None if running is None else running.age_seconds,
                    descendants=descendants(_pid(worker), timeout=share),
                )
            )
        return views


def _innermost(running: Sequence[RunningTimer]) -> dict[WorkerInfo, RunningTimer]:
    """The timer that matters of each worker: an expired one, else the youngest."""
    chosen: dict[WorkerInfo, RunningTimer] = {}
    for each in sorted(running, key=lambda one: (not one.expired, one.age_seconds)):
        chosen.setdefault(each.worker, each)
    return chosen


def _pid(worker: WorkerInfo) -> int:
    return int(worker.pid)
