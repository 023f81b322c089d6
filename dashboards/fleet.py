"""*Timers: fleet*: many hosts, many runs, one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import reaps_in_the_logs, run
from .board import Board, metrics_variables, reap_annotations
from .panels import ORANGE, RED, YELLOW, Column, Query, bars, gauges, lines, number, rows
from .queries import (
    FAILED,
    NEAR_MISS,
    SCOPE,
    SILENT_AFTER_SECONDS,
    TARGET,
    occurrences,
    quantile,
    quantile_of_rare,
    range_increase,
    selected,
    share_above,
    sweep_age,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.dashboard import Dashboard

    from .panels import Panel

__all__ = ["UID", "build"]

UID = "timers-fleet"

POINTS = 200
"""How many moments a graph shows at most: each is computed from the series of all hosts."""

_OK = f'{SCOPE}, outcome!~"{FAILED}"'
_NOT = f'{SCOPE}, outcome=~"{FAILED}"'
_SILENT = f"({sweep_age()}) > {SILENT_AFTER_SECONDS}"
# Which run each address was for. One of them, when several followed each other on one address:
# without topk that would be an error ("many-to-many") instead of an approximation.
_RUN_OF = (
    'topk by (job, instance) (1, last_over_time(timers_run_info{run_id=~"$run_id"}[$__range]))'
)
_OPEN_RUN = (
    "Open this run",
    (
        f"/d/{run.UID}?${{datasource:queryparam}}&${{__url_time_range}}"
        "&var-run_id=${__value.raw}&var-job=$__all&var-instance=$__all"
    ),
)
_OPEN_REPORT = (
    "Open the report",
    f"/d/{reaps_in_the_logs.UID}?${{__url_time_range}}&var-run_id=${{__data.fields.Run:percentencode}}",
)
_OPEN_HOST = ("Open the service's own page", "http://${__value.raw}/")


def build() -> Dashboard:
    """Build the dashboard."""
    board = Board(
        "Timers: fleet",
        UID,
        "Is anything stuck now, what was reaped, which scopes live close to their deadline, and is "
        "every watchdog awake; for many hosts and runs. Runbooks: dashboards/runbooks.",
        since="now-6h",
        refresh="30s",
    )
    board.variables(metrics_variables(one_run=False))
    board.built.annotation(reap_annotations())
    board.row("Now", _now())
    board.row("Runs", [_runs()])
    board.row("What was reaped", _reaped())
    board.row("What lives close to its deadline", _near_misses())
    board.row("Are the watchdogs awake", _watchdogs())
    board.row("Weeks and months (needs timers-recording.yml)", _weeks(), collapsed=True)
    return board.built.build()


def _now() -> list[Panel]:
    reaped, failed = (range_increase("timers_reaps_total", "", which) for which in (_OK, _NOT))
    return [
        number(
            "Stuck now",
            "Timers past their deadline whose worker is still there. Red for more than a minute: "
            "the kill does not work or is not allowed (observe only). Find the host in the table "
            "below, open its page for the stack, then follow runbooks/reap-failed.md.",
            Query(f"sum({selected(f'timers_overdue{{{SCOPE}}}')})"),
            steps=[(1, RED)],
            decimals=0,
        ),
        number(
            "Workers reaped",
            "Workers killed in the time range because a block overran. Not zero: see where they "
            "were stuck in the dashboard 'Timers: reaps in the logs', then "
            "runbooks/worker-reaped.md.",
            Query(f"round({reaped})"),
            steps=[(1, ORANGE)],
            decimals=0,
        ),
        number(
            "Reaps failed",
            "Attempts to kill that failed: the worker survived SIGKILL (uninterruptible sleep) or "
            "the kernel refused the signal. Red: runbooks/reap-failed.md.",
            Query(f"round({failed})"),
            steps=[(1, RED)],
            decimals=0,
        ),
        number(
            "Near misses",
            "Share of finished blocks that used more than 80 % of their deadline. Red: healthy "
            "workers are about to be killed. Find the scope below and raise its deadline or make "
            "it faster: runbooks/near-miss-rate-rising.md.",
            Query(share_above(NEAR_MISS, over_range=True)),
            unit="percentunit",
            steps=[(0.01, YELLOW), (0.05, RED)],
            decimals=1,
        ),
        number(
            "Lateness, 99th percentile",
            "How long after a deadline the watchdog noticed. Red: its host or container is short "
            "of CPU, so reaps come late: runbooks/expiries-late.md.",
            Query(quantile(0.99, "timers_expiry_lateness_seconds", "", TARGET, over_range=True)),
            unit="s",
            steps=[(0.1, YELLOW), (1, RED)],
        ),
        number(
            "Watchdogs silent",
            f"Services that discovery lists and whose watchdog has shown no sign of life for "
            f"{SILENT_AFTER_SECONDS} s. Red: nobody watches the workers of those hosts: "
            "runbooks/watchdog-silent.md.",
            Query(f"count({_SILENT}) or 0 * count(up{{{TARGET}}})"),
            steps=[(1, RED)],
            decimals=0,
        ),
    ]


def _with_run(series: str, by: str = "") -> str:
    return f"sum by (run_id{by}) ({series} * on (job, instance) group_left (run_id) {_RUN_OF})"


def _runs() -> Panel:
    info = f'timers_run_info{{run_id=~"$run_id", {TARGET}}}'
    last = f'timers_last_hang_report_timestamp_seconds{{run_id=~"$run_id", {TARGET}}}'
    return rows(
        "Runs, the most reaped first",
        "One row for each run, over however many hosts. The last column is the last hang report of "
        "the run: who was stuck, and where; click it for the whole report in the logs, the run for "
        "its dashboard. Red: runbooks/worker-reaped.md.",
        [
            Query(f"count by (run_id) (last_over_time({info}[$__range]))"),
            Query(_with_run(f"timers_workers{{{TARGET}}}")),
            Query(_with_run(f"timers_overdue{{{SCOPE}}}")),
            Query(f"round({_with_run(f'increase(timers_reaps_total{{{_OK}}}[$__range])')})"),
            Query(
                "topk by (run_id) (1, max by (run_id, summary) "
                f"(last_over_time({last}[$__range]))) * 1000"
            ),
        ],
        {
            "run_id": Column("Run", link=_OPEN_RUN, width=200),
            "Value #A": Column("Hosts", width=80, decimals=0),
            "Value #B": Column("Workers", width=80, decimals=0),
            "Value #C": Column("Stuck now", width=90, steps=[(1, RED)], decimals=0),
            "Value #D": Column("Reaped", width=80, steps=[(1, ORANGE)], decimals=0),
            "Value #E": Column("Last hang", "dateTimeFromNow", 150),
            "summary": Column("What it was", link=_OPEN_REPORT),
        },
        sort_by="Reaped",
    )


def _reaped() -> list[Panel]:
    reaps = f"(increase(timers_reaps_total{{{SCOPE}}}[$__range]) > 0)"
    by_run = selected(reaps, over_range=True)
    return [
        bars(
            "Reaps by scope and outcome",
            "One bar for each worker that was reaped, and for each attempt that failed "
            "(still_alive, not_permitted). Many at once on many hosts: a shared cause (network, "
            "storage, a deploy); one scope again and again: "
            "runbooks/scope-reaped-repeatedly.md.",
            [
                Query(
                    occurrences("timers_reaps_total", "scope, outcome"),
                    "{{scope}}: {{outcome}}",
                    exemplars=True,
                )
            ],
            span=16,
            points=POINTS,
        ),
        gauges(
            "Hosts by reaps",
            "Where workers were reaped in the time range. One host far ahead of the others: look "
            "at that machine (GPU, network card, disk) before looking at the code.",
            [
                Query(
                    f"topk(15, round(sum by (instance) ({by_run})) > 0)",
                    "{{instance}}",
                )
            ],
            steps=[(1, ORANGE), (5, RED)],
            decimals=0,
        ),
        rows(
            "Reaps by run, host and scope",
            "What was reaped in the time range; click a run for its dashboard, a host for the "
            "service's own page with the stacks. Not empty: runbooks/worker-reaped.md.",
            [Query(f"round({_with_run(reaps, ', instance, scope, outcome')}) > 0")],
            {
                "run_id": Column("Run", link=_OPEN_RUN),
                "instance": Column("Host", link=_OPEN_HOST),
                "scope": Column("Scope"),
                "outcome": Column("Outcome"),
                "Value": Column("Reaps", steps=[(1, ORANGE), (3, RED)], width=120, decimals=0),
            },
            sort_by="Reaps",
        ),
    ]


def _near_misses() -> list[Panel]:
    seconds = range_increase("timers_scope_duration_seconds_sum", "scope")
    ratios = range_increase("timers_deadline_used_ratio_sum", "scope")
    used = quantile(0.99, "timers_deadline_used_ratio", "scope", SCOPE, over_range=True)
    return [
        lines(
            "Near misses by scope",
            "Share of finished blocks that used more than 80 % of their deadline. Above the red "
            "line: raise that scope's deadline, or find out what became slower: "
            "runbooks/near-miss-rate-rising.md.",
            [Query(share_above(NEAR_MISS, "scope"), "{{scope}}")],
            unit="percentunit",
            at_least=0.1,
            steps=[(0.05, RED)],
            span=10,
            points=POINTS,
        ),
        rows(
            "Scopes, the closest to their deadline first",
            "Red in 'Used, p99': one block in a hundred nearly gets its worker killed; raise the "
            "deadline or make it faster. The deadline is the mean over the time range.",
            [
                Query(f"round({range_increase('timers_acquires_total', 'scope')})"),
                Query(share_above(NEAR_MISS, "scope", over_range=True)),
                Query(used),
                Query(f"{seconds} / ({ratios} > 0)"),
                Query(f"round({range_increase('timers_reaps_total', 'scope', _OK)})"),
            ],
            {
                "scope": Column("Scope"),
                "Value #A": Column("Entered", width=90, decimals=0),
                "Value #B": Column(
                    "Near misses", "percentunit", 110, [(0.01, YELLOW), (0.05, RED)], 1
                ),
                "Value #C": Column(
                    "Used, p99", "percentunit", 100, [(0.8, YELLOW), (0.95, RED)], 0
                ),
                "Value #D": Column("Deadline", "s", 90),
                "Value #E": Column("Reaped", width=80, steps=[(1, ORANGE)], decimals=0),
            },
            span=14,
            sort_by="Used, p99",
        ),
    ]


def _watchdogs() -> list[Panel]:
    late = "timers_expiry_lateness_seconds"
    return [
        lines(
            "Lateness of expiries",
            "From a deadline to the moment the watchdog noticed. Above the red line: the service "
            "gets no CPU; give it a reservation or find what starves it: "
            "runbooks/expiries-late.md.",
            [
                Query(quantile_of_rare(0.99, late, "", TARGET), "99th percentile"),
                Query(quantile_of_rare(0.5, late, "", TARGET), "median"),
            ],
            unit="s",
            steps=[(1, RED)],
            span=8,
            rare=True,
            points=POINTS,
        ),
        lines(
            "Longest time since a watchdog last looked",
            "Seconds since each watchdog last checked its deadlines, the ten longest. Above the "
            "red line it is silent and its workers are not watched: runbooks/watchdog-silent.md.",
            [Query(f"topk(10, {sweep_age()})", "{{instance}}")],
            unit="s",
            steps=[(SILENT_AFTER_SECONDS, RED)],
            span=8,
            points=POINTS,
        ),
        rows(
            "Services",
            "Every service that discovery lists. 'Reachable' 0: the process or its host is gone. "
            "Reachable, but a long time since the last look: it hangs. Either way: "
            "runbooks/watchdog-silent.md.",
            [
                Query(f"sum by (instance) (up{{{TARGET}}})"),
                Query(f"max by (instance) ({sweep_age()})"),
                Query(f"sum by (instance) ({selected(f'timers_workers{{{TARGET}}}')})"),
            ],
            {
                "instance": Column("Host", link=_OPEN_HOST),
                "Value #A": Column("Reachable", width=90, decimals=0),
                "Value #B": Column("Last look", "s", 90, [(SILENT_AFTER_SECONDS, RED)], 0),
                "Value #C": Column("Workers", width=80, decimals=0),
            },
            span=8,
            sort_by="Last look",
        ),
    ]


def _weeks() -> list[Panel]:
    labels = '{job=~"$job", scope=~"$scope"}'
    return [
        lines(
            "Near misses by scope, recorded",
            "As above but cheap over months; all hosts and runs. A slow rise is the deadline "
            "being eaten up: plan a larger one before it is hit "
            "(runbooks/near-miss-rate-rising.md).",
            [Query(f"job_scope:timers_near_miss:ratio_rate1h{labels}", "{{scope}}")],
            unit="percentunit",
            at_least=0.1,
            steps=[(0.05, RED)],
            span=8,
        ),
        lines(
            "Reaps a day, recorded",
            "At this pace, how many workers a day each scope costs. A step up: compare with what "
            "was deployed that day (runbooks/scope-reaped-repeatedly.md).",
            [
                Query(
                    "sum by (scope) (avg_over_time(job_scope_outcome:timers_reaps:rate5m"
                    f"{labels}[$__rate_interval])) * 86400",
                    "{{scope}}",
                )
            ],
            unit="short",
            span=8,
        ),
        lines(
            "Lateness, 99th percentile, recorded",
            "The worst host of each job. A rise over weeks: hosts are getting fuller "
            "(runbooks/expiries-late.md).",
            [
                Query(
                    "max by (job) "
                    '(job_instance:timers_expiry_lateness_seconds:p99_rate15m{job=~"$job"})',
                    "{{job}}",
                )
            ],
            unit="s",
            steps=[(1, RED)],
            span=8,
            rare=True,
        ),
    ]
