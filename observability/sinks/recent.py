"""The last reaps with their stacks, kept in memory for whoever asks over HTTP."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from observability.events import HangReported
from observability.fields import timestamp, to_fields
from observability.hang.text import render
from observability.untrusted import encodable, replaced
from timers.events import ReapFailed, StackDumped, TimerExpired, WorkerKilled

from .bounded import fit

if TYPE_CHECKING:
    from observability.hang.types import HangReport
    from timers.events import Event, WorkerInfo

__all__ = ["RecentReaps", "as_shown"]


class RecentReaps:
    """A sink that tells of each expired worker in one record: why, where it was stuck, how it went.

    A record has the fields of the events ``timer expired``, ``stack dumped`` and ``kill worker
    process`` (or ``reap failed``), the latest value of each; ``outcome`` is missing while the reap
    is under way and for a worker that is only observed. It is no larger than a log line.

    :param keep: how many records to keep, at least 1.
    :param run_id: for events that carry none.
    """

    name = "recent"

    def __init__(self, keep: int = 50, *, run_id: str = "") -> None:
        self._records: deque[tuple[WorkerInfo, dict[str, Any]]] = deque(maxlen=keep)
        self._run_id = run_id
        self.hang: dict[str, Any] | None = None
        """The last hang report, as data and as text; replaced as a whole."""

    def __call__(self, event: Event) -> None:
        """Take note of ``event``, if it is about a reap."""
        if isinstance(event, HangReported):
            self.hang = as_shown(event.report, event.timestamp)
            return
        if not isinstance(event, TimerExpired | StackDumped | WorkerKilled | ReapFailed):
            return
        fields = to_fields(event, run_id=self._run_id)
        known = next((record for who, record in self._records if who == event.worker), None)
        if isinstance(event, TimerExpired) and known is not None and _is_open(known):
            return  # another timer of the same worker, which is reaped once
        if known is None and isinstance(event, StackDumped):
            return  # it was looked at because of another one
        if known is None or isinstance(event, TimerExpired):
            self._records.appendleft((event.worker, fit(fields)))
            return
        # Replaced, never changed: a reader may hold the old one.
        merged = fit({**known, **fields, "timestamp": known["timestamp"]})
        self._records = deque(
            ((who, merged if record is known else record) for who, record in self._records),
            maxlen=self._records.maxlen,
        )

    def records(self) -> list[dict[str, Any]]:
        """The records, the latest first. From any thread."""
        return [record for _, record in tuple(self._records)]


def as_shown(report: HangReport, moment: float) -> dict[str, Any]:
    """Return a hang report as the page has it.

    :param moment: when it was made, in seconds since the epoch.
    """
    shown = replaced(report.to_dict(), str, encodable)
    return {"timestamp": timestamp(moment), "text": render(report, width=120), **shown}


def _is_open(record: dict[str, Any]) -> bool:
    return "outcome" not in record and "stack_method" not in record
