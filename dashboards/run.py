"""*Timers: one run*: everything about one run's scopes, reaps and watchdog."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    rate,
    selected,
    share_above,
    sweep_age,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.dashboard import Dashboard

    from .panels import Panel

__all__ = ["UID", "build"]

UID = "timers-run"

_DURATION = "timers_scope_duration_seconds"
_RATIO = "timers_deadline_used_ratio"
_BANDS = (
    ("up to 50 %", None, "0.5", "green"),
    ("50 to 80 %", "0.5", "0.8", "blue"),
    ("80 to 95 %", "0.8", "0.95", ORANGE),
)
"""Name, lower bound, upper bound and color of each band of used ratio; above: ``over 95 %``."""


def build() -> Dashboard:
    """Build the dashboard."""
    board = Board(
        "Timers: one run",
        UID,
        "One run in depth: its scopes against their deadlines, its reaps, and the watchdog that "
        "looks after it. Runbooks: dashboards/runbooks.",
        since="now-1h",
        refresh="10s",
    )
    board.variables(metrics_variables(one_run=True))
    board.built.annotation(reap_annotations())
    board.row("Now", _now())
    board.row("Scopes against their deadlines", _scopes())
    board.row("Expiries, reaps and stack dumps", _reaps())
    board.row("The watchdog itself", _watchdog())
    return board.built.build()


def _now() -> list[Panel]:
    reaped = range_increase("timers_reaps_total", "", f'{SCOPE}, outcome!~"{FAILED}"')
    return [
        number(
            "Workers watched",
            "Processes that have used a timer and are alive. Fewer than the run has ranks: some "
            "are not instrumented, or have ended; compare with the launcher's log.",
            Query(f"sum({selected(f'timers_workers{{{TARGET}}}')})"),
            decimals=0,
        ),
        number(
            "Active timers",
            "Blocks being timed at this moment. Zero while the run works: its workers do not "
            "reach this service; check TORCHELASTIC_TIMER_FILE or TIMERS_* in their environment.",
            Query(f"sum({selected(f'timers_active{{{SCOPE}}}')})"),
            decimals=0,
        ),
        number(
            "Stuck now",
            "Timers past their deadline whose worker is still there. Red for more than a minute: "
            "runbooks/reap-failed.md.",
            Query(f"sum({selected(f'timers_overdue{{{SCOPE}}}')})"),
            steps=[(1, RED)],
            decimals=0,
        ),
        number(
            "Workers reaped",
            "Workers killed in the time range because a block overran. Not zero: "
            "runbooks/worker-reaped.md.",
            Query(f"round({reaped})"),
            steps=[(1, ORANGE)],
            decimals=0,
        ),
        number(
            "Near misses",
            "Share of finished blocks that used more than 80 % of their deadline. Red: "
            "runbooks/near-miss-rate-rising.md.",
            Query(share_above(NEAR_MISS, over_range=True)),
            unit="percentunit",
            steps=[(0.01, YELLOW), (0.05, RED)],
            decimals=1,
        ),
        number(
            "Watchdog last looked",
            "Seconds since deadlines were last checked; up to a minute is normal when nothing "
            "happens. Red: nobody watches this run: runbooks/watchdog-silent.md.",
            Query(f"max({sweep_age()})"),
            unit="s",
            steps=[(SILENT_AFTER_SECONDS, RED)],
            decimals=0,
        ),
    ]


def _scopes() -> list[Panel]:
    seconds, ratios = rate(f"{_DURATION}_sum", "scope"), rate(f"{_RATIO}_sum", "scope")
    return [
        lines(
            "Active timers by scope",
            "How many workers are inside each scope. A scope that fills up and stays full is a "
            "collective waiting for the one rank that is not there: look for the odd one out.",
            [Query(f"sum by (scope) ({selected(f'timers_active{{{SCOPE}}}')})", "{{scope}}")],
            unit="short",
        ),
        lines(
            "Acquires and releases by scope",
            "Blocks entered and left each second. Acquires without releases: workers get in and "
            "not out. Both at zero: the run stands still, or does not reach the service.",
            [
                Query(rate("timers_acquires_total", "scope"), "entered {{scope}}"),
                Query(rate("timers_releases_total", "scope"), "left {{scope}}"),
            ],
            unit="ops",
        ),
        lines(
            "Duration of scopes against the deadline",
            "How long blocks take, and the deadline they have (dashed). A 99th percentile that "
            "nears its deadline gets healthy workers killed: raise the deadline, or find what "
            "slowed down. Choose one scope above to read it easily; quantiles are estimates within "
            "the histogram's buckets. A point is one block, and opens its trace.",
            [
                Query(quantile(0.5, _DURATION, "scope", SCOPE), "median {{scope}}"),
                Query(quantile(0.99, _DURATION, "scope", SCOPE), "p99 {{scope}}", exemplars=True),
                Query(f"{seconds} / ({ratios} > 0)", "deadline {{scope}}"),
            ],
            unit="s",
            log_scale=True,
            fill=0,
        ),
        lines(
            "How much of the deadline was used",
            "Finished blocks each second by the share of their deadline that they used. Growing "
            "bands on top are the deadline being eaten up: runbooks/near-miss-rate-rising.md.",
            [
                *(Query(_band(lower, upper), name) for name, lower, upper, _ in _BANDS),
                Query(_band("0.95", None), "over 95 %"),
            ],
            unit="ops",
            stacked=True,
            colors={name: color for name, _, _, color in _BANDS} | {"over 95 %": RED},
        ),
        gauges(
            "Used share of the deadline by scope, 99th percentile",
            "One block in a hundred uses at least this much of its deadline. Red: that scope "
            "nearly gets workers killed: runbooks/near-miss-rate-rising.md.",
            [
                Query(
                    f"sort_desc({quantile(0.99, _RATIO, 'scope', SCOPE, over_range=True)})",
                    "{{scope}}",
                )
            ],
            unit="percentunit",
            steps=[(0.8, YELLOW), (0.95, RED)],
            span=12,
            decimals=0,
            maximum=1.5,
        ),
        lines(
            "Near misses by scope",
            "Share of finished blocks that used more than 80 % of their deadline. Above the red "
            "line: runbooks/near-miss-rate-rising.md.",
            [Query(share_above(NEAR_MISS, "scope"), "{{scope}}")],
            unit="percentunit",
            at_least=0.1,
            steps=[(0.05, RED)],
        ),
    ]


def _band(lower: str | None, upper: str | None) -> str:
    """Finished scopes a second whose used ratio is above ``lower`` and at most ``upper``."""
    every = rate(f"{_RATIO}_count", "")
    high = rate(f"{_RATIO}_bucket", "", f'{SCOPE}, le="{upper}"') if upper else every
    low = rate(f"{_RATIO}_bucket", "", f'{SCOPE}, le="{lower}"') if lower else ""
    return f"{high} - {low}" if low else high


def _reaps() -> list[Panel]:
    dumps = "timers_stack_dump_seconds"
    expired = occurrences("timers_expirations_total", "scope")
    reaped = occurrences("timers_reaps_total", "scope, outcome")
    return [
        bars(
            "Expired timers and reaps by scope",
            "Deadlines that passed, and how the reaps ended. Expired without a reap: that client "
            "asked for observation only (signal 0), or the reap is under way. still_alive or "
            "not_permitted: runbooks/reap-failed.md; else runbooks/worker-reaped.md.",
            [
                Query(expired, "{{scope}}: expired"),
                Query(reaped, "{{scope}}: {{outcome}}", exemplars=True),
            ],
        ),
        bars(
            "Stack dumps by method and outcome",
            "How stacks were taken; 'failed' means the reap has no stack. 'proc' is the last "
            "resort: py-spy is missing or not permitted on that host; run 'timers check' there "
            "(runbooks/worker-reaped.md, 'No stack').",
            [
                Query(
                    occurrences(f"{dumps}_count", "method, outcome", TARGET),
                    "{{method}}: {{outcome}}",
                )
            ],
            span=6,
        ),
        lines(
            "Time to take a stack, 95th percentile",
            "A reap waits for the dump, up to its bound (5 s by default). Above the red line: the "
            "host is overloaded, or lower --dump-timeout.",
            [Query(quantile_of_rare(0.95, dumps, "method", TARGET), "{{method}}")],
            unit="s",
            steps=[(1, RED)],
            span=6,
            rare=True,
        ),
    ]


def _watchdog() -> list[Panel]:
    late = "timers_expiry_lateness_seconds"
    reasons = occurrences("timers_requests_rejected_total", "reason", TARGET)
    dropped = occurrences("timers_events_dropped_total", "sink", TARGET)
    errors = occurrences("timers_sink_errors_total", "sink", TARGET)
    build_info = selected(f"timers_build_info{{{TARGET}}}")
    memory = selected(f"process_resident_memory_bytes{{{TARGET}}}")
    cpu = selected(f"rate(process_cpu_seconds_total{{{TARGET}}}[$__rate_interval])")
    return [
        lines(
            "Lateness of expiries",
            "From a deadline to the moment the watchdog noticed. Above the red line: "
            "runbooks/expiries-late.md.",
            [
                Query(quantile_of_rare(0.99, late, "", TARGET), "99th percentile"),
                Query(quantile_of_rare(0.5, late, "", TARGET), "median"),
            ],
            unit="s",
            steps=[(1, RED)],
            span=8,
            rare=True,
        ),
        bars(
            "Requests rejected by reason",
            "Requests that were refused, so their blocks are not watched. Any bar: "
            "runbooks/requests-rejected.md lists what each reason means.",
            [Query(reasons, "{{reason}}")],
            span=8,
        ),
        bars(
            "Events dropped and sink errors",
            "Log lines and spans that were lost (counters never are). Any bar: the log's disk or "
            "the trace collector is slow or down: runbooks/events-dropped.md.",
            [
                Query(dropped, "{{sink}}: dropped"),
                Query(errors, "{{sink}}: error"),
            ],
            span=8,
        ),
        lines(
            "CPU of the service",
            "Share of one core. Above the red line it may notice deadlines late: fewer timers in "
            "inner loops, or spans and debug logs off (runbooks/expiries-late.md).",
            [Query(f"sum by (instance) ({cpu})", "{{instance}}")],
            unit="percentunit",
            steps=[(0.8, RED)],
            span=6,
        ),
        lines(
            "Memory of the service",
            "Resident memory. It grows with the timers that are open and is bounded otherwise; a "
            "steady rise is a bug worth a report with this graph.",
            [Query(f"sum by (instance) ({memory})", "{{instance}}")],
            unit="bytes",
            span=6,
        ),
        rows(
            "The service",
            "Version and host of the service of this run. Different versions in one run: finish "
            "the rollout before comparing graphs.",
            [
                Query(f"sum by (instance, version) ({build_info})"),
                Query(
                    "sum by (instance, run_id, host) "
                    f'(timers_run_info{{{TARGET}, run_id=~"$run_id"}})'
                ),
            ],
            {
                "instance": Column(
                    "Address", link=("Open the service's own page", "http://${__value.raw}/")
                ),
                "host": Column("Host"),
                "run_id": Column("Run"),
                "version": Column("Version", width=100),
            },
            span=12,
        ),
    ]
