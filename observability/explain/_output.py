"""A report as text, as the event lines that ``timers report`` merges, or as a page."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from observability.events import HangReported
from observability.fields import timestamp, to_fields
from observability.hang.text import render, worker_name
from observability.report.html import page
from observability.report.incidents import Incident
from observability.samples.frames import frame_line
from observability.samples.types import Pace
from observability.samples.worker import read
from observability.sinks.bounded import encode, fit
from observability.untrusted import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from observability.samples.types import WorkerView

    from .job import Explained
    from .rates import Rate

_MOST_LISTED = 16


def accuses(explained: Explained) -> bool:
    """Return whether there is a suspect. One that computes is none while nobody waits for it.

    No deadline has passed here, so that alone is no offence.
    """
    report = explained.report
    named = {each.pid for each in report.suspects if each.pace is Pace.SPINNING}
    alone = len(report.suspects) == report.workers
    return bool(report.suspects) and not (alone and len(named) == len(report.suspects))


def text(explained: Explained, rates: Mapping[int, Rate], *, width: int) -> str:
    """Write the report for people, with what each worker does and how fast.

    :param rates: of the workers, by pid.
    :param width: characters to which a line is cut.
    """
    blocks = [render(explained.report, width=width)]
    # Those that get on: with each sample elsewhere, or computing.
    readings, total = map(read, explained.views), len(explained.views)
    count = sum(each.moves or each.pace is Pace.SPINNING for each in readings)
    if count and not accuses(explained):
        who = "its worker moves" if total == 1 else f"{count} of its {total} workers move"
        blocks.insert(0, f"The job is at work: {who}.")
    lines = [_pace_line(view, rates) for view in explained.views[:_MOST_LISTED]]
    if len(explained.views) > _MOST_LISTED:
        lines.append(f"  and {len(explained.views) - _MOST_LISTED} more")
    blocks.append("\n".join(["how fast:", *(printable(line)[:width] for line in lines)]))
    problems = unread(explained.views)
    if problems:
        blocks.append("\n".join(["not readable:", *(f"  {each}" for each in problems)]))
    return "\n\n".join(blocks)


def _pace_line(view: WorkerView, rates: Mapping[int, Rate]) -> str:
    worker = view.worker
    name = worker_name(worker.rank, worker.pid, "")
    pid = f" (pid {worker.pid})" if worker.rank is not None else ""
    rate = rates.get(int(worker.pid))
    reading = read(view)
    at = f" at {frame_line(reading.own)}" if reading.own is not None else ""
    what = str(reading.reason.wait.value) if view.samples else "was not read"
    return f"  {name}{pid} {what}{at}: {rate if rate is not None else 'it has ended'}"


def unread(views: Iterable[WorkerView]) -> list[str]:
    """Return why stacks could not be read, each reason once, with the pids."""
    reasons: dict[str, list[str]] = {}
    for view in views:
        dump = view.dump
        if dump is not None and not dump.threads and dump.error:
            first = printable(dump.error.splitlines()[0])
            pid = str(view.worker.pid)
            reasons.setdefault(first.replace(pid, "PID"), []).append(pid)
    return [f"{', '.join(pids[:8])}: {reason}" for reason, pids in reasons.items()]


def event_lines(explained: Explained, *, run_id: str, host: str) -> list[str]:
    """Return the lines that ``timers run --events FILE`` would have written at an expiry."""
    report = HangReported(timestamp=time.time(), run_id=run_id, report=explained.report)
    return [
        encode(fit(to_fields(event, host=host))) for event in (*explained.stacks(run_id), report)
    ]


def html(explained: Explained, *, run_id: str, host: str, at: float) -> str:
    """Return the report as one page, with all stacks merged.

    :param at: when the samples were taken, in seconds since the epoch.
    """
    hang = Incident(started=timestamp(at), scopes=(), hosts=(host,), report=explained.report)
    return page(run_id, [hang])
