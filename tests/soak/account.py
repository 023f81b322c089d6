"""Planned beside seen: the exact account at the end of a run. Pure functions of data.

Both sides are :data:`Figures`: for each thing that is counted, a counter by scope, reason or
worker. They are made from different sources (the workers' own journals; the server's metrics and
events, and what the kernel says of the processes), and they have to be equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .events import EventFiles
    from .journal import Account

__all__ = ["Figures", "Row", "compare", "planned_figures", "seen_figures", "short_figures"]

Figures: TypeAlias = Mapping[str, Counter[str]]
Samples: TypeAlias = Mapping[str, Mapping[tuple[str, ...], float]]
"""A scrape: by name of the sample, then by the values of its labels."""

_LONGEST_LABEL = 120
_FAILED = ("still_alive", "not_permitted", "error")


class Row(NamedTuple):
    """One thing that was counted."""

    what: str
    planned: int
    seen: int
    differences: tuple[str, ...] = ()
    """In words, each naming what it is about."""
    short: int = 0
    """By how much less may be seen than planned."""


def compare(planned: Figures, seen: Figures, short: Figures | None = None) -> list[Row]:
    """Put them side by side. What only one side has is 0 on the other.

    :param short: how much less may be seen, where that cannot be known exactly.
    """
    nothing: Counter[str] = Counter()
    rows = []
    for what in dict.fromkeys([*planned, *seen]):
        sides = (
            planned.get(what, nothing),
            seen.get(what, nothing),
            (short or {}).get(what, nothing),
        )
        rows.append(
            Row(
                what,
                planned=sides[0].total(),
                seen=sides[1].total(),
                differences=_differences(what, *sides),
                short=sides[2].total(),
            )
        )
    return rows


def _differences(
    what: str, planned: Counter[str], seen: Counter[str], short: Counter[str]
) -> tuple[str, ...]:
    return tuple(
        f"{what}, {key}: planned {planned[key]}, seen {seen[key]}"
        for key in sorted({*planned, *seen})
        if not planned[key] - short[key] <= seen[key] <= planned[key]
    )


def short_figures(accounts: Iterable[Account]) -> dict[str, Counter[str]]:
    """What may be missing, in all that cannot be known.

    - The duration of a block that was told of late: over the pipe a worker that found it full tells
      how many blocks there were, no longer how long each of them took (``missed``, in
      :mod:`timers.transport.wire`).
    - The last request of a thread that was at work when its process was killed; over the pipe, all
      those of that thread which had to wait.
    """
    short: dict[str, Counter[str]] = {
        name: Counter() for name in ("acquires", "releases", "blocks timed")
    }
    for account in accounts:
        scope, late = account.at_work, account.pair == "file"
        if late:
            short["blocks timed"].update(account.left)
        if scope is not None:
            for name, known in (("acquires", account.acquires), ("releases", account.releases)):
                short[name][scope] += known[scope] if late else 1
            short["blocks timed"][scope] += 0 if late else 1
    return {what: _by_label(counts) for what, counts in short.items()}


def planned_figures(accounts: Iterable[Account]) -> dict[str, Counter[str]]:
    """What the server has to have counted, by the accounts of the processes."""
    figures: dict[str, Counter[str]] = {
        name: Counter()
        for name in (
            "acquires",
            "releases",
            "blocks timed",
            "expirations",
            "reaps",
            "lines rejected",
            "events: timer expired",
            "events: timer warning",
            "events: stack of the expired",
            "events: kill worker process",
            "events: worker exited",
            "exits of forked children",
        )
    }
    for account in accounts:
        figures["acquires"].update(account.acquires)
        figures["releases"].update(account.releases)
        figures["blocks timed"].update(account.left)
        figures["expirations"].update(account.expirations)
        figures["lines rejected"].update(account.rejected)
        figures["events: timer expired"].update(account.expirations)
        figures["events: timer warning"].update(account.warnings)
        for expirations in account.expirations.values():
            figures["events: stack of the expired"][str(account.pid)] += expirations
        if account.reaped is not None:
            scope, outcome = account.reaped
            figures["reaps"][f"{scope}: {outcome}"] += 1
            figures["events: kill worker process"][f"{account.pid}: {outcome}"] += 1
        elif account.acquires or account.releases:
            figures["events: worker exited"][str(account.pid)] += 1
        figures["events: worker exited"].update(map(str, account.ghosts))
        for child in account.children:
            figures["exits of forked children"][_child(account, child.pid, child.planned)] += 1
    figures["expiries timed"] = Counter({"": sum(figures["expirations"].values())})
    figures["stack dumps timed"] = Counter({"": sum(figures["expirations"].values())})
    return {what: _by_label(counts) for what, counts in figures.items()}


def _child(account: Account, pid: int, status: int) -> str:
    return f"child {pid} of worker {account.worker}: {status}"


def _by_label(counts: Counter[str]) -> Counter[str]:
    labels: Counter[str] = Counter()
    for key, count in counts.items():
        labels[key[:_LONGEST_LABEL]] += count
    return labels


def seen_figures(
    metrics: Samples,
    events: EventFiles,
    accounts: Sequence[Account],
    ends: Mapping[int, frozenset[int]],
) -> dict[str, Counter[str]]:
    """What the server counted and told, and how forked children ended.

    What has no counterpart in :func:`planned_figures` has to be 0.

    :param ends: how each process ended, by pid; pids come again in a long run.
    """
    figures = {
        "acquires": _of(metrics, "timers_acquires_total"),
        "releases": _of(metrics, "timers_releases_total"),
        "blocks timed": _of(metrics, "timers_scope_duration_seconds_count"),
        "expirations": _of(metrics, "timers_expirations_total"),
        # Labels come in the order of their names: outcome, scope.
        "reaps": Counter(
            {
                f"{scope}: {outcome}": int(value)
                for (outcome, scope), value in metrics.get("timers_reaps_total", {}).items()
            }
        ),
        "lines rejected": _of(metrics, "timers_requests_rejected_total"),
        "expiries timed": _of(metrics, "timers_expiry_lateness_seconds_count"),
        "stack dumps timed": Counter(
            {"": int(sum(metrics.get("timers_stack_dump_seconds_count", {}).values()))}
        ),
        "events: timer expired": Counter(events.expired),
        "events: timer warning": Counter(events.warned),
        "events: stack of the expired": Counter(events.explained),
        "events: kill worker process": Counter(events.killed),
        "events: worker exited": Counter(str(each.pid) for each in events.exits),
        "exits of forked children": Counter(
            _child(account, child.pid, child.seen)
            for account in accounts
            for child in account.children
        ),
    }
    figures["hang reports counted, less those told"] = Counter(
        {"": int(sum(metrics.get("timers_hang_reports_total", {}).values()))}
    )
    figures["hang reports counted, less those told"][""] -= events.names["hang report"]
    figures["rejections told, beyond those counted"] = events.rejected - figures["lines rejected"]
    figures["events: reap failed"] = Counter({"": events.names["reap failed"]})
    figures["exit statuses told wrongly"] = Counter(_wrongly_told(events, ends))
    figures["events dropped"] = _of(metrics, "timers_events_dropped_total")
    figures["errors of sinks"] = _of(metrics, "timers_sink_errors_total")
    figures["timers left"] = _of(metrics, "timers_active")
    figures["timers left overdue"] = _of(metrics, "timers_overdue")
    figures["workers left"] = _of(metrics, "timers_workers")
    figures["complaints of the service"] = Counter(events.gravest)
    return figures


def _of(metrics: Samples, name: str) -> Counter[str]:
    return Counter({"".join(labels): int(value) for labels, value in metrics.get(name, {}).items()})


def _wrongly_told(events: EventFiles, ends: Mapping[int, frozenset[int]]) -> Iterable[str]:
    for pid, status in events.exits:
        if status is not None and status not in ends.get(pid, frozenset()):
            yield f"process {pid}: {status}"
