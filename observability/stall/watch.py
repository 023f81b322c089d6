"""Watch a job for progress, on a thread of its own, and report when there has been none."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Protocol

from observability.events import JobMoves, JobStalled, Notice
from observability.explain.job import descendants, explain_tree
from observability.hang.types import Confidence
from timers.linux import procfs
from timers.linux.ranks import ranks_of

from ._decide import Step, Watching, period_of
from ._judge import Finding, judge
from ._look import take_look

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from observability.explain.job import Explained
    from observability.hang.types import HangReport
    from timers.events import Event, WorkerInfo
    from timers.server.statistics import Statistics
    from timers.server.watchdog import RunningTimer

__all__ = ["STALLED_SCOPE", "StallWatch", "Watched"]

_logger = logging.getLogger(__name__)
STALLED_SCOPE = "job stalled"
"""The scope of the timer by which the suspect of a stall is ended."""
NOTICE_SECONDS = 60.0
"""Without any timer for so long, it is said what is watched."""
_MOST_SECONDS = 30.0
"""For the samples of one examination: nothing waits for them."""
_READ_CALLS = {"x86_64": "0", "aarch64": "63"}
"""Number of read(2) (asm/unistd_64.h, asm-generic/unistd.h)."""


class Watched(Protocol):
    """What the watch needs to know of a server."""

    @property
    def statistics(self) -> Statistics:
        """The counts."""
        ...

    def running_timers(self, limit: int | None = None) -> list[RunningTimer]:
        """List the open timers."""
        ...

    def known_workers(self) -> list[WorkerInfo]:
        """List the workers that have sent a request."""
        ...


class StallWatch:
    """Looks at a job now and then, from :meth:`start` to :meth:`stop`.

    :param server: whose blocks count as progress, and whose workers are part of the job.
    :param emit: is given the events. Must not block.
    :param after: seconds without progress, after which a stall is reported; more than 0.
    :param run_id: names the job.
    :param host: this machine's name.
    :param own_children: whether what this process has started is the job.
    :param kill: ends the suspect of a stall, when there is one the evidence is against; None to
        report only.
    """

    def __init__(
        self,
        server: Watched,
        emit: Callable[[Event], None],
        *,
        after: float,
        run_id: str,
        host: str,
        own_children: bool,
        kill: Callable[[int], None] | None = None,
    ) -> None:
        self._server = server
        self._emit = emit
        self._after = after
        self._run_id = run_id
        self._host = host
        self._own_children = own_children
        self._kill = kill
        self._watching = Watching(after)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="timers-stall-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End; samples under way are waited for. Idempotent."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()

    def roots(self) -> list[int]:
        """Return the processes from which the job descends."""
        own = procfs.children(os.getpid()) if self._own_children else []
        return list(
            dict.fromkeys([*own, *(int(each.pid) for each in self._server.known_workers())])
        )

    def _run(self) -> None:
        began = time.monotonic()
        noticed = False
        while not self._ending.wait(period_of(self._after)):
            try:
                self._look()
                if not noticed and time.monotonic() - began >= NOTICE_SECONDS:
                    noticed = True
                    self._say_what_is_watched()
            except Exception:  # a look that fails must not be the last one
                _logger.exception("could not find out whether the job moves")

    def _look(self) -> None:
        roots = self.roots()
        look = take_look(roots, blocks=self._blocks())
        before = self._watching.still_seconds(look.at)
        step = self._watching.look(look)
        if step is Step.EXAMINE:
            step = self._examine(roots)
        if step is Step.MOVES_AGAIN:
            self._server.statistics.moves_again()
            self._emit(JobMoves(timestamp=time.time(), run_id=self._run_id, stalled_seconds=before))

    def _say_what_is_watched(self) -> None:
        if self._blocks() or self._server.known_workers():
            return
        tree = descendants(self.roots())
        ranks = {ranks_of(pid).rank for pid in tree} - {None}
        if not tree:
            return
        kind, number = ("rank", len(ranks)) if ranks else ("process", len(tree))
        plural = "" if number == 1 else "es" if kind == "process" else "s"
        self._emit(
            Notice(
                timestamp=time.time(),
                run_id=self._run_id,
                message=f"nobody has set a timer yet; the stall watch looks at {number}"
                f" {kind}{plural}",
                severity="info",
            )
        )

    def _blocks(self) -> int:
        statistics = self._server.statistics
        statistics.collect()
        return sum(scope.acquires + scope.releases for scope in statistics.scopes.values())

    def _examine(self, roots: Sequence[int]) -> Step:
        explained = explain_tree(roots, timeout=_MOST_SECONDS, host=self._host)
        at = time.monotonic()
        pids = [view.pid for view in explained.views]
        finding = judge(
            explained.views,
            awaited=bool(explained.launchers),
            at_input={pid for pid in pids if _reads_input(pid)},
        )
        if finding is Finding.STUCK and self._has_time_left(explained.report):
            finding = Finding.IDLE
        was_stalled = self._watching.stalled
        step = self._watching.examined(at, finding)
        if self._watching.stalled and not was_stalled:
            self._report(explained, at)
        return step

    def _has_time_left(self, report: HangReport) -> bool:
        """Whether a deadline that still runs will tell: of the suspects, without one of anybody.

        One that ends nobody, as those of automatic timers, is no reason to wait for it.
        """
        named = {each.pid for each in report.suspects}
        return any(
            not running.expired
            and running.timer.signal > 0
            and (not named or running.worker.pid in named)
            for running in self._server.running_timers()
        )

    def _report(self, explained: Explained, at: float) -> None:
        report = explained.report
        self._server.statistics.stalled()
        self._server.statistics.reported(report.verdict.value)
        for event in explained.stacks(self._run_id):
            self._emit(event)
        self._emit(
            JobStalled(
                timestamp=time.time(),
                run_id=self._run_id,
                stalled_seconds=self._watching.still_seconds(at),
                report=report,
            )
        )
        if self._kill is not None and report.confidence is not Confidence.LOW:
            for suspect in report.suspects:
                if suspect.host == self._host and isinstance(suspect.pid, int):
                    self._kill(suspect.pid)


def _reads_input(pid: int) -> bool:
    """Whether the main thread of ``pid`` waits in read(2) of descriptor 0."""
    words = procfs.system_call(pid, pid)
    return words[:1] == [_READ_CALLS.get(os.uname().machine, "")] and words[1:2] == ["0x0"]
