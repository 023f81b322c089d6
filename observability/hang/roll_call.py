"""At the first expiry, sample every worker of the run, and say who is the odd one out.

The step before a kill for a whole job: the first worker that expires calls the roll, those that
expire meanwhile wait for it, and nobody is signalled before it is over or its bound has passed.
As the sampler of its server it also samples workers while their timers still run, so that the
report can tell a stuck worker from a slow one; as a sink it remembers who has left.

Samples run on a few threads of their own. A sample that comes when all are busy and many wait is
skipped: a late one says nothing.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from observability.events import HangReported
from observability.samples.process_facts import add_open_files
from observability.samples.reading import needs_more_samples
from observability.samples.sample import descendants, take_sample
from observability.samples.types import Sample, WorkerView
from observability.scope_durations import scope_durations
from timers.events import StackDumped, WorkerExited

from .json import extra_fields
from .report import analyse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from timers.events import Event, WorkerInfo
    from timers.server.server import WatchdogServer
    from timers.server.watchdog import RunningTimer
    from timers.stacks.take import StackDump

__all__ = ["RollCall"]

_logger = logging.getLogger(__name__)

_SAMPLING_THREADS = 4
_MOST_WAITING = 64
_KEPT_LOOKS = 24
_KEPT_GONE = 256
_ROUNDS = 3
_BETWEEN_ROUNDS_SECONDS = 0.2
"""Between samples of the same worker: what is stuck shows in that it stays."""
_BETWEEN_MORE_SECONDS = 0.03
"""Between samples of one that computes, which have to meet it in several of its functions."""
_MARGIN_SECONDS = 0.5
"""Taken off the bound for the analysis and for handing the result over."""
_EPISODE_SECONDS = 1.0
"""Who expires this soon after a roll call is part of the same hang."""


class RollCall:
    """The step before a kill, the sampler and a sink, for one server.

    :param emit: is given the events: the stacks of the others, and the report. Must not block.
    :param run_id: names the job.
    :param host: this machine's name.
    :param timeout: seconds, the bound of the whole step, as in ``ReapPolicy.dump_timeout``.
    :param sample_at: shares of a timer's ``after`` at which to sample its worker beforehand.
    :param sample_from: seconds; timers shorter than this are not sampled. 0 turns sampling off.
    :param native: whether stacks have C frames, too.
    """

    name = "roll_call"

    def __init__(
        self,
        emit: Callable[[Event], None],
        *,
        run_id: str,
        host: str,
        timeout: float = 5.0,
        sample_at: Sequence[float] = (0.5, 0.9),
        sample_from: float = 10.0,
        native: bool = False,
    ) -> None:
        self._emit = emit
        self._run_id = run_id
        self._host = host
        self._timeout = max(0.0, timeout - _MARGIN_SECONDS)
        self._sample_at = tuple(sample_at) if sample_from > 0 else ()
        self._sample_from = sample_from
        self._native = native
        self._server: WatchdogServer | None = None
        self._pool = ThreadPoolExecutor(_SAMPLING_THREADS, thread_name_prefix="timers-sample")
        self._lock = threading.Lock()
        self._samples: dict[WorkerInfo, deque[Sample]] = {}
        self._gone: deque[WorkerView] = deque(maxlen=_KEPT_GONE)
        self._waiting = 0
        self._episode: Future[dict[int, StackDump]] | None = None
        self._episode_ended = 0.0

    def attach(self, server: WatchdogServer) -> None:
        """Call the roll of this server's workers; to be called before it is started."""
        self._server = server
        if self._sample_at:
            server.sampler = self

    def __call__(self, event: Event) -> None:
        """Remember who has left: others may wait for it."""
        if isinstance(event, WorkerExited):
            scope = event.timers[-1][0].scope_id if event.timers else None
            how = "has exited" if scope is None else f"has exited inside scope {scope!r}"
            view = WorkerView(
                worker=event.worker,
                host=self._host,
                gone=how,
                unclean=scope is not None,
                scope_id=scope,
            )
            self._gone.append(view)

    def close(self) -> None:
        """End the sampling threads; a sample under way is left to its own bound."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # -- sampling -------------------------------------------------------------------------------

    def moments(self, after_seconds: float) -> tuple[float, ...]:
        """When to sample the worker of a timer of ``after_seconds``."""
        if after_seconds < self._sample_from:
            return ()
        return tuple(share * after_seconds for share in self._sample_at)

    def look(self, running: RunningTimer) -> None:
        """Sample a worker soon. Never blocks."""
        with self._lock:
            if self._waiting >= _MOST_WAITING:
                return
            self._waiting += 1
        try:
            self._pool.submit(self._sample, running)
        except RuntimeError:  # closed, or no more threads to be had
            self._waiting -= 1

    def _sample(self, running: RunningTimer) -> None:
        try:
            self._take_sample(running.worker, running, self._timeout)
            self._forget_the_gone()
        finally:
            with self._lock:
                self._waiting -= 1

    def _take_sample(
        self, worker: WorkerInfo, running: RunningTimer | None, timeout: float
    ) -> None:
        thread = None if running is None else running.timer.thread
        found = take_sample(_pid(worker), thread=thread, timeout=timeout, native=self._native)
        with self._lock:
            self._samples.setdefault(worker, deque(maxlen=_KEPT_LOOKS)).append(found)

    def _forget_the_gone(self) -> None:
        known = set(self._known_workers())
        with self._lock:
            for worker in [each for each in self._samples if each not in known]:
                del self._samples[worker]

    def _known_workers(self) -> list[WorkerInfo]:
        return [] if self._server is None else self._server.known_workers()

    # -- the roll call --------------------------------------------------------------------------

    def before_kill(
        self, _run_id: str, expired_timers: dict[int, list[str]]
    ) -> dict[int, StackDump]:
        """Sample all workers, report, and return the stacks of the expired ones."""
        until = time.monotonic() + self._timeout
        with self._lock:
            episode = self._episode
            recent = time.monotonic() - self._episode_ended < _EPISODE_SECONDS
            calling = episode is None or (episode.done() and not recent)
            if calling or episode is None:
                episode = self._episode = Future()
        if calling:
            found: dict[int, StackDump] = {}
            try:
                found = self._call_the_roll(set(expired_timers), until)
            except Exception:  # each is sampled on its own then
                _logger.exception("could not call the roll of the workers")
            finally:
                self._episode_ended = time.monotonic()
                episode.set_result(found)  # those who wait must not wait for ever
        dumps = episode.result(max(0.0, until - time.monotonic()))
        return {
            # What a worker did before it expired need not be what it is stuck in.
            pid: dumps[pid] if pid in dumps else self._sample_expired(pid, until)
            for pid in expired_timers
        }

    def _sample_expired(self, pid: int, until: float) -> StackDump:
        left = max(0.0, until - time.monotonic())
        dump = take_sample(pid, thread=None, timeout=left, native=self._native).dump
        return dataclasses.replace(add_open_files(dump), extras=(("expired", True),))

    def _call_the_roll(self, expired: set[int], until: float) -> dict[int, StackDump]:
        """Sample all workers; return the stacks of those that had expired when it began."""
        self._forget_the_gone()
        workers = self._known_workers()
        timers = _innermost([] if self._server is None else self._server.running_timers())
        for number in range(_ROUNDS):
            if number:
                time.sleep(_BETWEEN_ROUNDS_SECONDS)
            if not self._sample_all(workers, timers, until):
                break
        while computing := [each for each in workers if self._computes(each, timers.get(each))]:
            time.sleep(_BETWEEN_MORE_SECONDS)
            if not self._sample_all(computing, timers, until):
                break
        views = [
            self._view(worker, timers.get(worker), expired, until, len(workers))
            for worker in workers
        ]
        dumps = {}
        for view in views:
            if view.samples and view.expired:
                dumps[_pid(view.worker)] = _dump(view)
            elif view.samples:
                self._emit_stack(view, timers.get(view.worker), _dump(view))
        try:
            self._emit_report(views)
        except Exception:  # the stacks are worth more than what is made of them
            _logger.exception("could not report who holds up the others")
        return dumps

    def _sample_all(
        self,
        workers: Sequence[WorkerInfo],
        timers: Mapping[WorkerInfo, RunningTimer],
        until: float,
    ) -> bool:
        """Sample each of them once; whether there is time for more."""
        left = until - time.monotonic()
        samples = [
            self._pool.submit(self._take_sample, worker, timers.get(worker), left)
            for worker in workers
        ]
        wait(samples, max(0.0, left))
        return until - time.monotonic() > 2 * _BETWEEN_ROUNDS_SECONDS

    def _computes(self, worker: WorkerInfo, running: RunningTimer | None) -> bool:
        """Whether more samples could tell if it gets anywhere."""
        with self._lock:
            samples = tuple(self._samples.get(worker, ()))
        thread = None if running is None else running.timer.thread
        return bool(samples) and needs_more_samples(samples, thread)

    def _view(
        self,
        worker: WorkerInfo,
        running: RunningTimer | None,
        expired: set[int],
        until: float,
        share: int,
    ) -> WorkerView:
        with self._lock:
            samples = tuple(self._samples.get(worker, ()))
        left = max(0.0, until - time.monotonic()) / max(1, share)
        return WorkerView(
            worker=worker,
            host=self._host,
            samples=samples,
            scope_id=None if running is None else running.timer.scope_id,
            thread=None if running is None else running.timer.thread,
            expired=worker.pid in expired or (running is not None and running.expired),
            after_seconds=None if running is None else running.timer.after_seconds,
            elapsed_seconds=None if running is None else running.age_seconds,
            descendants=descendants(_pid(worker), timeout=left),
        )

    def _emit_stack(self, view: WorkerView, running: RunningTimer | None, dump: StackDump) -> None:
        self._emit(
            StackDumped(
                timestamp=time.time(),
                run_id=self._run_id,
                worker=view.worker,
                timer=None if running is None else running.timer,
                elapsed_seconds=math.nan if running is None else running.age_seconds,
                dump=dump,
            )
        )

    def _emit_report(self, views: Sequence[WorkerView]) -> None:
        here = {(view.worker.rank, view.worker.pid) for view in views}
        gone = [
            each for each in tuple(self._gone) if (each.worker.rank, each.worker.pid) not in here
        ]
        report = analyse([*views, *gone])
        if self._server is not None:
            counts = self._server.statistics.hang_reports
            counts[report.verdict.value] = counts.get(report.verdict.value, 0) + 1
            for event in scope_durations(self._server.statistics, self._run_id):
                self._emit(event)
        self._emit(HangReported(timestamp=time.time(), run_id=self._run_id, report=report))


def _dump(view: WorkerView) -> StackDump:
    """The last stacks of a worker, with all that a report on another host needs to know."""
    extras: dict[str, object] = {"expired": view.expired}
    try:
        extras |= extra_fields(view)
    except Exception:
        _logger.exception("could not read the pace of worker %s", view.worker.pid)
    return dataclasses.replace(add_open_files(view.samples[-1].dump), extras=tuple(extras.items()))


def _innermost(running: Sequence[RunningTimer]) -> dict[WorkerInfo, RunningTimer]:
    """The timer that matters of each worker: an expired one, else the youngest."""
    chosen: dict[WorkerInfo, RunningTimer] = {}
    for each in sorted(running, key=lambda one: (not one.expired, one.age_seconds)):
        chosen.setdefault(each.worker, each)
    return chosen


def _pid(worker: WorkerInfo) -> int:
    return int(worker.pid)
