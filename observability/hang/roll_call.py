"""At the first expiry, sample every worker of the run, and report who is the odd one out.

The step before a kill for a whole job: the first worker that expires calls the roll, those that
expire meanwhile wait for it, and nobody is signalled before it is over or its bound has passed.
As the sampler of its server it also samples workers while their timers still run, so that the
report can tell a stuck worker from a slow one; as a sink it remembers who has left.

With a fleet it is one roll call over all hosts of the job, and one report: each host samples its
own workers, and goes on alone when the others do not answer in time.

Ranks that never registered are part of the roll, too: the one that is stuck before its first timer
is the one that all others wait for. A sample that comes when all sampling threads are busy and
many wait is skipped: a late one says nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

from observability.events import HangReported
from observability.fleet.exchange import Shared
from observability.samples.threads import is_idle
from observability.samples.types import WorkerView
from observability.sampling.members import unregistered, world_size
from observability.sampling.process_facts import add_open_files
from observability.sampling.survey import Sampling
from observability.scope_durations import scope_durations
from timers.bounded import left
from timers.events import StackDumped, WorkerExited, WorkerInfo
from timers.linux.process import Process

from .json import extra_fields
from .report import analyse
from .types import Confidence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from observability.fleet.exchange import RollCall as FleetRollCall
    from observability.fleet.fleet import Fleet
    from timers.events import Event
    from timers.server.server import WatchdogServer
    from timers.server.watchdog import RunningTimer
    from timers.stacks.take import StackDump

    from .types import HangReport

__all__ = ["CULPRIT_SCOPE", "RollCall"]

_logger = logging.getLogger(__name__)

CULPRIT_SCOPE = "holds up the others"
"""In place of a timer, of one that is ended for those that wait for it."""
_MOST_WAITING = 64
_KEPT_GONE = 256
_SEARCH_SHARE = 0.1
"""Of the bound, for finding the ranks that never registered."""
_ANALYSIS_SHARE = 0.1
"""Of the time until the kill, for the report and for handing it over."""
_SHARED_SHARE = 0.45
"""Of the time until the kill, for putting the parts of all hosts together."""
_EPISODE_SECONDS = 1.0
"""Who expires this soon after a roll call is part of the same hang."""


class RollCall:
    """The step before a kill, the sampler and a sink, for one server.

    :param emit: is given the events: the stacks of the others, and the report. Must not block.
    :param run_id: names the job.
    :param host: this machine's name.
    :param timeout: seconds, the bound of one sample.
    :param sample_at: shares of a timer's ``after`` at which to sample its worker beforehand.
    :param sample_from: seconds; timers shorter than this are not sampled. 0 turns sampling off.
    :param native: whether stacks have C frames, too.
    :param end: when given, those that expired and only wait for a suspect are spared until the
        bound of the kill has passed, and a suspect of this host without a timer is ended by it.
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
        end: Callable[[int], None] | None = None,
    ) -> None:
        self._emit = emit
        self._end = end
        self._shared: Shared | None = None
        """The last report."""
        self._run_id = run_id
        self._host = host
        self._timeout = timeout
        self._sample_at = tuple(sample_at) if sample_from > 0 else ()
        self._sample_from = sample_from
        self._sampling = Sampling(native=native)
        self._server: WatchdogServer | None = None
        self._fleet: Fleet | None = None
        self._lock = threading.Lock()
        self._gone: deque[WorkerView] = deque(maxlen=_KEPT_GONE)
        self._unregistered: list[WorkerInfo] = []
        self._waiting = 0
        self._episode: Future[dict[int, StackDump]] | None = None
        self._episode_ended = 0.0

    def attach(self, server: WatchdogServer) -> None:
        """Call the roll of this server's workers; to be called before it is started."""
        self._server = server
        if self._sample_at:
            server.sample_with(self)

    def join(self, fleet: Fleet) -> None:
        """Take part in the roll calls of many hosts; to be called before the server is started."""
        self._fleet = fleet
        fleet.answer = self.answer

    def __call__(self, event: Event) -> None:
        """Remember who has left: others may wait for it."""
        if isinstance(event, WorkerExited):
            if event.worker.name is not None and event.worker.rank is None:
                return  # A framework starts and ends such as it likes, and no rank misses them.
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
        self._sampling.close()

    # -- sampling -------------------------------------------------------------------------------

    def moments(self, after_seconds: float) -> tuple[float, ...]:
        """When to sample the worker of a timer of ``after_seconds``."""
        if after_seconds < self._sample_from:
            return ()
        return tuple(share * after_seconds for share in self._sample_at)

    @property
    def first(self) -> tuple[int, int]:
        """From which time on there are :meth:`moments` (ns); the first, in thousandths of it."""
        shares = [share for share in self._sample_at if 0 < share < 1]
        if not shares or self._sample_from <= 0:
            return 0, 0
        return int(self._sample_from * 1e9), int(min(shares) * 1000)

    def look(self, running: RunningTimer) -> None:
        """Sample a worker soon. Never blocks."""
        with self._lock:
            if self._waiting >= _MOST_WAITING:
                return
            self._waiting += 1
        try:
            sampled = self._sampling.submit(self._view(running.worker, running), self._timeout)
        except RuntimeError:  # closed, or no more threads to be had
            self._waiting -= 1
        else:
            sampled.add_done_callback(self._sampled)

    def _sampled(self, _sample: object) -> None:
        with self._lock:
            self._waiting -= 1
        self._sampling.forget_others({*self._known_workers(), *self._unregistered})

    def _known_workers(self) -> list[WorkerInfo]:
        return [] if self._server is None else self._server.known_workers()

    # -- the roll call --------------------------------------------------------------------------

    def before_kill(
        self, _run_id: str, expired_timers: dict[int, list[str]], *, until: float
    ) -> dict[int, StackDump]:
        """Sample all workers, report, and return the stacks of the expired ones.

        :param until: the moment of time.monotonic() by which to be done.
        """
        kill_at, until = until, min(until, time.monotonic() + self._timeout)
        with self._lock:
            episode = self._episode
            recent = time.monotonic() - self._episode_ended < _EPISODE_SECONDS
            calling = episode is None or (episode.done() and not recent)
            if calling or episode is None:
                episode = self._episode = Future()
        if calling:
            self._run(episode, set(expired_timers), until)
        dumps = episode.result(left(until))
        found = {
            # What a worker did before it expired need not be what it is stuck in.
            pid: dumps[pid] if pid in dumps else self._sample_expired(pid, until)
            for pid in expired_timers
        }
        if self._end is not None and not self._is_accused(expired_timers):
            _wait_for_the_end(expired_timers, kill_at)
        return found

    def _is_accused(self, pids: Iterable[int]) -> bool:
        """Whether one of them is to be ended; true of all where nobody is named for sure."""
        report = self._shared.report if self._shared else None
        if report is None or not report.suspects or report.confidence is Confidence.LOW:
            return True
        here = {each.pid for each in report.suspects if each.host == self._host}
        return bool(here & set(pids))

    def answer(self, call: FleetRollCall, until: float) -> None:
        """Sample all workers of this host for a roll call of another one, and report.

        One that this host has begun by itself is the same, and goes on.
        """
        with self._lock:
            if self._episode is not None and not self._episode.done():
                return
            episode = self._episode = Future()
        self._run(episode, set(), until, call)

    def _run(
        self,
        episode: Future[dict[int, StackDump]],
        expired: set[int],
        until: float,
        call: FleetRollCall | None = None,
    ) -> None:
        found: dict[int, StackDump] = {}
        try:
            found = self._call_the_roll(expired, until, call)
        except Exception:  # each is sampled on its own then
            _logger.exception("could not call the roll of the workers")
        finally:
            self._episode_ended = time.monotonic()
            episode.set_result(found)  # those who wait must not wait for ever

    def _sample_expired(self, pid: int, until: float) -> StackDump:
        worker = next((each for each in self._known_workers() if each.pid == pid), None)
        view = WorkerView(worker=WorkerInfo(pid=pid) if worker is None else worker)
        dump = self._sampling.sample(view, left(until)).dump
        return dataclasses.replace(add_open_files(dump), extras=(("expired", True),))

    def _call_the_roll(
        self, expired: set[int], kill_at: float, call: FleetRollCall | None
    ) -> dict[int, StackDump]:
        """Sample all workers; return the stacks of those that had expired when it began."""
        announced: Future[FleetRollCall | None] | FleetRollCall | None = call
        if self._fleet is not None and self._fleet.is_joined and call is None:
            announced = self._fleet.announce(kill_at)
        share = _ANALYSIS_SHARE if announced is None else _SHARED_SHARE
        until = kill_at - share * left(kill_at)
        known = self._known_workers()
        timers = _innermost([] if self._server is None else self._server.running_timers())
        # Under "timers run" the whole job descends from this process.
        self._unregistered = unregistered(
            known, timeout=_SEARCH_SHARE * left(until), roots=[os.getpid()]
        )
        workers = known + self._unregistered
        self._sampling.forget_others(set(workers))
        views = self._sampling.survey(
            [
                self._view(worker, timers.get(worker), expired=worker.pid in expired)
                for worker in workers
            ],
            until,
        )
        size = world_size(workers)
        shared = None
        try:
            shared = self._agree(views, size, announced, kill_at)
        except Exception:  # the stacks are worth more than what is made of them
            _logger.exception("could not find out who holds up the others")
        self._shared = shared
        report = shared.report if shared else None
        here = [each for each in report.suspects if each.host == self._host] if report else []
        named = {each.pid for each in here}
        dumps = {}
        for view in views:
            dump = _dump(view, size, innocent=bool(report) and view.worker.pid not in named)
            if dump is not None and view.expired:
                dumps[view.pid] = dump
            elif dump is not None and not is_idle(view):
                self._emit_stack(view, timers.get(view.worker), dump)
        if shared is not None:
            self._emit_report(shared)
            if self._fleet is not None:
                self._fleet.confirm(shared, kill_at)
        return dumps

    def _view(
        self, worker: WorkerInfo, running: RunningTimer | None, *, expired: bool = False
    ) -> WorkerView:
        """Describe a worker that is to be sampled, with the timer that matters."""
        view = WorkerView(worker=worker, host=self._host, expired=expired)
        if running is None:
            return view
        return dataclasses.replace(
            view,
            scope_id=running.timer.scope_id,
            thread=running.timer.thread,
            expired=expired or running.expired,
            after_seconds=running.timer.after_seconds,
            elapsed_seconds=running.age_seconds,
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

    def _agree(
        self,
        views: Sequence[WorkerView],
        size: int | None,
        announced: Future[FleetRollCall | None] | FleetRollCall | None,
        until: float,
    ) -> Shared:
        """Make the report of this host, or take that of all hosts."""
        here = {(view.worker.rank, view.worker.pid) for view in views}
        gone = [
            each for each in tuple(self._gone) if (each.worker.rank, each.worker.pid) not in here
        ]
        report = analyse([*views, *gone], world_size=size)
        self._end_culprits(report, views)
        if self._fleet is None or announced is None:
            return Shared(report, counts=True)
        # What is left over is for handing the report on, before the kill.
        until -= _ANALYSIS_SHARE * left(until)
        return self._fleet.agree(announced, [*views, *gone], size, report, until)

    def _end_culprits(self, report: HangReport, views: Sequence[WorkerView]) -> None:
        """End the suspects that have no deadline, for those of this host that have passed theirs.

        By what this host knows itself: the report of all hosts is what they say.
        """
        expired = {view.worker.pid for view in views if view.expired}
        if self._end is None or not expired or report.confidence is Confidence.LOW:
            return
        there = {view.worker.pid for view in views if view.gone is None}
        for each in report.suspects:
            if each.pid in there - expired and isinstance(each.pid, int):
                self._end(each.pid)

    def _emit_report(self, shared: Shared) -> None:
        report = shared.report
        if self._server is not None:
            if shared.counts:
                self._server.statistics.reported(report.verdict.value)
            for event in scope_durations(self._server.statistics, self._run_id):
                self._emit(event)
        self._emit(
            HangReported(
                timestamp=time.time(), run_id=self._run_id, report=report, counts=shared.counts
            )
        )


def _wait_for_the_end(pids: Iterable[int], until: float) -> None:
    """Wait until these processes have ended, or until the bound has passed."""
    for pid in pids:
        with contextlib.suppress(OSError), contextlib.closing(Process(pid)) as process:
            process.exited(left(until))


def _dump(view: WorkerView, size: int | None, *, innocent: bool) -> StackDump | None:
    """Return the last stacks of a worker, with all that a report on another host needs to know."""
    if not view.samples:
        return None
    extras: dict[str, object] = {"expired": view.expired}
    if size is not None:
        extras["world_size"] = size
    try:
        extras |= extra_fields(view, innocent=innocent)
    except Exception:
        _logger.exception("could not read the pace of worker %s", view.worker.pid)
    return dataclasses.replace(add_open_files(view.samples[-1].dump), extras=tuple(extras.items()))


def _innermost(running: Sequence[RunningTimer]) -> dict[WorkerInfo, RunningTimer]:
    """The timer that matters of each worker: an expired one, else the youngest."""
    chosen: dict[WorkerInfo, RunningTimer] = {}
    for each in sorted(running, key=lambda one: (not one.expired, one.age_seconds)):
        chosen.setdefault(each.worker, each)
    return chosen
