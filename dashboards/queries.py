"""The PromQL and LogQL that several panels share.

The functions return text with Grafana's variables (``$job``, ``$__rate_interval``...) in it.
"""

from __future__ import annotations

__all__ = [
    "FAILED",
    "LINES",
    "NEAR_MISS",
    "SILENT_AFTER_SECONDS",
    "occurrences",
    "quantile",
    "quantile_of_rare",
    "range_increase",
    "rate",
    "selected",
    "share_above",
    "sweep_age",
]

TARGET = 'job=~"$job", instance=~"$instance"'
SCOPE = f'{TARGET}, scope=~"$scope"'
FAILED = "still_alive|not_permitted"
"""The outcomes after which the worker is still there; see timers.events.Outcome."""
NEAR_MISS = "0.8"
"""The bucket bound of timers_deadline_used_ratio above which a scope is a near miss."""
SILENT_AFTER_SECONDS = 120
"""No sign of the watchdog for this long: longer than any default interval and any scrape."""

_RUN = 'timers_run_info{run_id=~"$run_id"}'


def selected(series: str, *, over_range: bool = False) -> str:
    """Keep ``series`` of the selected runs only; ``over_range`` also finds runs that have ended."""
    run = f"last_over_time({_RUN}[$__range])" if over_range else _RUN
    return f"{series} and on (job, instance) {run}"


def _sum(by: str, inner: str) -> str:
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def rate(metric: str, by: str, labels: str = SCOPE) -> str:
    """Compute the per-second rate of a counter, added up by the labels ``by``."""
    return _sum(by, selected(f"rate({metric}{{{labels}}}[$__rate_interval])"))


def occurrences(metric: str, by: str, labels: str = SCOPE) -> str:
    """Compute how often something happened around each point, if it ever did in the time range.

    The zeros in between are filled in, because Grafana draws the bars of a series with holes too
    wide. What did not happen is dropped before it is joined to its run: it is nearly everything.
    """
    run = f"last_over_time({_RUN}[$__range] @ end())"
    ever = f"(increase({metric}{{{labels}}}[$__range] @ end()) > 0) and on (job, instance) {run}"
    around = selected(f"(increase({metric}{{{labels}}}[$__rate_interval]) > 0)")
    return f"{_sum(by, around)} or 0 * {_sum(by, ever)}"


def range_increase(metric: str, by: str = "", labels: str = SCOPE) -> str:
    """Compute how much a counter grew in the whole time range of the dashboard."""
    return _sum(by, selected(f"increase({metric}{{{labels}}}[$__range])", over_range=True))


def quantile(q: float, histogram: str, by: str, labels: str, *, over_range: bool = False) -> str:
    """Compute a quantile of a histogram, by the labels ``by`` (may be empty)."""
    grouped = f"{by}, le" if by else "le"
    total = range_increase if over_range else rate
    return _quantile(q, total(f"{histogram}_bucket", grouped, labels))


def quantile_of_rare(q: float, histogram: str, by: str, labels: str) -> str:
    """Compute the same where most hosts have observed nothing: several times cheaper.

    Hosts without an observation are dropped before anything is joined, but of the others no bucket:
    the quantile is interpolated between two bounds, of which the lower may have counted nothing.
    """
    observed = selected(f"rate({histogram}_count{{{labels}}}[$__rate_interval]) > 0")
    rates = f"rate({histogram}_bucket{{{labels}}}[$__rate_interval])"
    return _quantile(
        q, _sum(f"{by}, le" if by else "le", f"{rates} and on (job, instance) ({observed})")
    )


def _quantile(q: float, buckets: str) -> str:
    # ">= 0": no value where nothing was observed, rather than NaN.
    return f"histogram_quantile({q}, {buckets}) >= 0"


def share_above(bound: str, by: str = "", *, over_range: bool = False) -> str:
    """Compute the share (0 to 1) of finished scopes that used more than ``bound`` of ``after``."""
    total = range_increase if over_range else rate
    below = total("timers_deadline_used_ratio_bucket", by, f'{SCOPE}, le="{bound}"')
    every = total("timers_deadline_used_ratio_count", by)
    # "> 0": where no scope finished there is no share, rather than 0 / 0. Rounded, because sums in
    # different orders leave 1e-16 where nothing is above. "(a - b) / a" would add up a third sum.
    return f"round(1 - {below} / ({every} > 0), 1e-6)"


def sweep_age() -> str:
    """Compute the seconds since each watchdog last looked, also of one that is unreachable.

    Only for targets that discovery still lists (``up`` exists): a run that ended is not silent.
    """
    last = f"last_over_time(timers_last_sweep_timestamp_seconds{{{TARGET}}}[1h])"
    run = f"last_over_time({_RUN}[1h])"
    return f"(time() - {last}) and on (job, instance) up{{{TARGET}}} and on (job, instance) {run}"


def _lines() -> str:
    # "$instance" is the host that wrote the line: log collectors do not agree on a stream label.
    fields = ("run_id", "run_id"), ("host", "instance"), ("scope_id", "scope")
    chosen = " ".join(f'| {name}=~"${variable}"' for name, variable in fields)
    # Lines that are not JSON (a worker's own, in the same stream) would end a query with an error.
    return '{job=~"$job"} | json | __error__=`` ' + chosen


LINES = _lines()
"""LogQL: the events of the selected runs, hosts and scopes, parsed."""
