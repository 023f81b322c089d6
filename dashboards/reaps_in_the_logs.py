"""*Timers: reaps in the logs*: the JSON events in Loki."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .board import Board, logs_variables
from .panels import ORANGE, RED, YELLOW, Column, Query, bars, events, gauges, number, rows
from .queries import LINES

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.dashboard import Dashboard

    from .panels import Panel

__all__ = ["UID", "build"]

UID = "timers-reaps-in-the-logs"

_WHO = "run_id, host, rank, worker_pid, scope_id"


def build() -> Dashboard:
    """Build the dashboard."""
    board = Board(
        "Timers: reaps in the logs",
        UID,
        "Who was reaped, in which scope, at which line: from the JSON events that 'timers run' "
        "and 'timers serve' write, collected by Loki. Runbooks: dashboards/runbooks.",
        since="now-6h",
        refresh="1m",
    )
    board.variables(logs_variables())
    board.row("In this time range", _numbers())
    board.row("Who was stuck where", _reaps())
    board.row("What else happened", _rest())
    return board.built.build()


def _log(expr: str, legend: str = "") -> Query:
    return Query(expr, legend, logql=True)


def _count(event: str, by: str = "", more: str = "", window: str = "$__range") -> str:
    grouped = f"sum by ({by}) " if by else "sum"
    return f"{grouped}(count_over_time({LINES} | event=~`{event}`{more} [{window}]))"


def _numbers() -> list[Panel]:
    died = f"sum(count_over_time({LINES} | event=`worker exited` | level=`warning` [$__range]))"
    return [
        _counted(
            "Workers reaped",
            "Reaps that ended with the worker gone. Not zero: read the table below, then "
            "runbooks/worker-reaped.md.",
            _count("kill worker process"),
            ORANGE,
        ),
        _counted(
            "Reaps failed",
            "The worker is still there after SIGKILL, or the signal was refused. Red: "
            "runbooks/reap-failed.md.",
            _count("reap failed"),
            RED,
        ),
        _counted(
            "Timers expired",
            "Deadlines that passed, those that are only observed included. Many more than reaps: "
            "some clients ask for signal 0.",
            _count("timer expired"),
            ORANGE,
        ),
        _counted(
            "Workers that died in a scope",
            "Workers that ended by themselves with a timer open: crashes, out-of-memory kills. "
            "Not the watchdog's doing: read the worker's own log at that moment.",
            died,
            ORANGE,
        ),
        _counted(
            "Requests rejected",
            "At most one line a second and reason is written; 'suppressed' in the line says how "
            "many more. Not zero: runbooks/requests-rejected.md.",
            _count("request rejected"),
            YELLOW,
        ),
        _counted(
            "Services started",
            "Services that began to listen. More than you started: something restarts them; see "
            "the launcher's log.",
            _count("watchdog started"),
        ),
    ]


def _counted(title: str, help_text: str, expr: str, color: str = "") -> Panel:
    return number(title, help_text, _log(expr), steps=[(1, color)] if color else [], decimals=0)


def _reaps() -> list[Panel]:
    stuck = f"{LINES} | event=`stack dumped` | unwrap expiration_time [$__range]"
    killed = (
        f"{LINES} | event=~`kill worker process|reap failed` | unwrap elapsed_seconds [$__range]"
    )
    return [
        rows(
            "Reaps, the latest first",
            "One row for each worker that was stuck: its rank, the scope it was in and the line to "
            "look at. Several ranks in one collective and one somewhere else: that one is the "
            "culprit. Frame empty: there was no stack, see 'stack_error' in the event below. "
            "Then runbooks/worker-reaped.md.",
            [
                # Milliseconds, because that is what a time is in Grafana.
                _log(f"1000 * max by ({_WHO}, frame, stack_method) (max_over_time({stuck}))"),
                _log(f"max by ({_WHO}, outcome) (max_over_time({killed}))"),
            ],
            {
                "Value #A": Column("Deadline", "dateTimeAsIso", 170),
                "run_id": Column("Run"),
                "host": Column("Host"),
                "rank": Column("Rank", width=70),
                "worker_pid": Column("Pid", width=90),
                "scope_id": Column("Scope"),
                "frame": Column("Frame"),
                "stack_method": Column("Stack by", width=90),
                "outcome": Column("Outcome", width=120),
                "Value #B": Column("In the scope for", "s", 130),
            },
            sort_by="Deadline",
        ),
        gauges(
            "Frames by reaps",
            "The lines at which workers were stuck most often. One far ahead: start reading there. "
            "A wait inside a collective is a symptom: look for the rank that is not in this list.",
            [_log(f"topk(10, {_count('stack dumped', 'frame')})", "{{frame}}")],
            steps=[(1, ORANGE), (3, RED)],
            span=12,
            decimals=0,
        ),
        gauges(
            "Ranks by reaps",
            "Which ranks were reaped most often. One rank on one host again and again: suspect its "
            "hardware before its code.",
            [
                _log(
                    f"topk(10, {_count('kill worker process', 'host, rank')})",
                    "{{host}} rank {{rank}}",
                )
            ],
            steps=[(1, ORANGE), (3, RED)],
            span=12,
            decimals=0,
        ),
    ]


def _rest() -> list[Panel]:
    notable = "timer expired|kill worker process|reap failed|worker exited|request rejected"
    return [
        bars(
            "Events over time",
            "What the watchdogs did. A burst on many hosts at once has a shared cause: network, "
            "storage, a deploy.",
            [_log(_count(notable, "event", window="$__auto"), "{{event}}")],
            span=14,
        ),
        gauges(
            "Why requests were rejected",
            "Reasons in the log lines (rate-limited there; the exact counts are in the metrics). "
            "Any bar: runbooks/requests-rejected.md.",
            [_log(_count("request rejected", "reason"), "{{reason}}")],
            steps=[(1, YELLOW)],
            span=10,
            decimals=0,
        ),
        events(
            "The events themselves",
            "The lines behind the panels above, with the whole stack in 'stack' (or the file named "
            "in the event when it was too long for a line). Empty while the numbers above are not: "
            "the collector parses the lines away; keep them as they are.",
            _log(f"{LINES} | event!~`timer acquired|timer released`"),
        ),
    ]
