"""What led to a reap, kept until its end: one event then has the whole story.

The server says one thing at a time: a timer expired, here is a stack, the worker is gone. Whoever
reads only the last of these (an alert on the log, a person at a terminal) gets the rest with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from timers.events import (
    ReapFailed,
    StackDumped,
    TimerExpired,
    WorkerExited,
    WorkerInfo,
    WorkerKilled,
)
from timers.linux.labels import labels_of

from .events import HangReported
from .fields import stack_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from timers.events import Event, Outcome

    from .hang.types import HangReport

__all__ = ["ExplainedDump", "ExplainedFailure", "ExplainedKill", "Stories", "Story"]

K = TypeVar("K")
V = TypeVar("V")

_MOST = 1024
"""Workers whose expiry is remembered; of a larger hang the first ones have less to say."""
_SAME_HANG_SECONDS = 2.0
"""Who expires this soon after a report is in it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Why a worker was reaped."""

    frame: str | None = None
    """``file:line function`` where it was; None when no stack is known."""
    hang: HangReport | None = None
    """Who held up the others; None without a hang report."""
    where: str = ""
    """Where more is to be found, in words; empty when nothing is kept."""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What its framework calls it and what it did; names are fields of the event."""

    def to_dict(self, *, tree: bool = True) -> dict[str, Any]:
        """Return it as fields of an event.

        :param tree: nothing here depends on it; as in :meth:`.HangReport.to_dict`.
        """
        del tree
        known = {
            "frame": self.frame,
            "sentence": self.hang.sentence if self.hang else None,
            "verdict": self.hang.verdict.value if self.hang else None,
            "report": self.where or None,
        }
        return {**self.labels, **{name: each for name, each in known.items() if each is not None}}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedKill(WorkerKilled):
    """The end of a reap, and why."""

    story: Story


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedFailure(ReapFailed):
    """An attempt to end a worker that failed, and why that was tried."""

    story: Story


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedDump(StackDumped):
    """Where a worker is that is only observed, and why: no later event is about it."""

    story: Story


class _Expired(NamedTuple):
    timestamp: float
    labels: Mapping[str, str]
    """As they were then: the worker itself may be gone when the story ends."""
    dumped: StackDumped | None = None


class Stories:
    """Adds to the end of each reap what was said of it before.

    Safe from any thread without a lock, because each step is one operation of a dictionary: it is
    called from threads that are about to kill, and in children that were forked meanwhile.
    """

    def __init__(self) -> None:
        self.where = ""
        """Where more is to be found, for people: a page, a command."""
        self._expired: dict[tuple[int | str, int | None], _Expired] = {}
        self.hang: HangReported | None = None
        """The last hang report."""
        self.reaps: dict[tuple[str, Outcome], WorkerKilled | ReapFailed] = {}
        """The last reap of each scope and outcome, bounded: for exemplars."""

    def completed(self, event: Event) -> Event:
        """Return ``event``, or for the end of a reap one that says why."""
        if isinstance(event, WorkerKilled | ReapFailed):
            _keep(self.reaps, (event.timer.scope_id, event.outcome), event)
        if isinstance(event, HangReported):
            self.hang = event
        elif isinstance(event, TimerExpired):
            self._remember(event)
        elif isinstance(event, StackDumped):
            known = self._expired.get(_key(event.worker))
            if known is not None:
                self._expired[_key(event.worker)] = known._replace(dumped=event)
                story = self.of(event.worker)
                if story and event.timer is not None and event.timer.signal <= 0:
                    return ExplainedDump(**_shallow(event), story=story)
        elif isinstance(event, WorkerExited):
            self._expired.pop(_key(event.worker), None)
        elif isinstance(event, WorkerKilled):
            story = self.of(event.worker)
            self._expired.pop(_key(event.worker), None)
            return ExplainedKill(**_shallow(event), story=story) if story else event
        elif isinstance(event, ReapFailed):
            story = self.of(event.worker)
            return ExplainedFailure(**_shallow(event), story=story) if story else event
        return event

    def of(self, worker: WorkerInfo) -> Story | None:
        """Return what is known of a worker that has expired; None of others."""
        known = self._expired.get(_key(worker))
        if known is None:
            return None
        dumped = known.dumped
        hang = self.hang
        if hang is not None and hang.timestamp < known.timestamp - _SAME_HANG_SECONDS:
            hang = None
        return Story(
            frame=None if dumped is None else stack_fields(dumped.dump, dumped.timer)["frame"],
            hang=None if hang is None else hang.report,
            where=self.where,
            labels=known.labels,
        )

    def of_pid(self, pid: int) -> tuple[int | None, Story] | None:
        """Return the start time and the story of the newest expired worker with this pid."""
        for known, start_time in reversed(tuple(self._expired)):
            story = self.of(WorkerInfo(pid=pid, start_time=start_time)) if known == pid else None
            if story is not None:
                return start_time, story
        return None

    def _remember(self, event: TimerExpired) -> None:
        key = _key(event.worker)
        known = self._expired.get(key)
        # Another timer of the same worker: the first one is why it is reaped.
        if known is None:
            pid, thread = event.worker.pid, event.timer.thread
            labels = labels_of(pid, thread) if isinstance(pid, int) else {}
            known = _Expired(event.timestamp, labels)
        _keep(self._expired, key, known)


def _keep(known: dict[K, V], key: K, value: V) -> None:
    known[key] = value
    while len(known) > _MOST:
        with contextlib.suppress(KeyError, RuntimeError):  # another thread did the same
            del known[next(iter(known))]


def _key(worker: WorkerInfo) -> tuple[int | str, int | None]:
    return worker.pid, worker.start_time


def _shallow(event: Event) -> dict[str, Any]:
    return {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
