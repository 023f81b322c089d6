"""What our dashboards have in common: variables, annotations, links and how rows are laid out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana_foundation_sdk.builders import dashboard, prometheus
from grafana_foundation_sdk.models.dashboard import (
    AnnotationQuery,
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from .panels import DATASOURCE, LOKI
from .queries import FAILED, SCOPE, selected

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .panels import Panel

__all__ = ["Board", "logs_variables", "metrics_variables", "reap_annotations"]

TAGS = ["timers"]


class Board:
    """A dashboard being put together; panel ids stay the same as long as the order does."""

    def __init__(self, title: str, uid: str, description: str, *, since: str, refresh: str) -> None:
        self.built = (
            dashboard.Dashboard(title)
            .uid(uid)
            .description(description)
            .tags(TAGS)
            .time(since, "now")
            .refresh(refresh)
            .timezone("browser")
            .tooltip(DashboardCursorSync.CROSSHAIR)
            .editable()
            .link(
                dashboard.DashboardLink("Timers")
                .type(DashboardLinkType.DASHBOARDS)
                .tags(TAGS)
                .include_vars(include_vars=True)
                .keep_time(keep_time=True)
            )
        )
        self._next_id = 1

    def variables(self, variables: Iterable[dashboard.QueryVariable | Other]) -> None:
        """Set the variables, in the order in which they are shown."""
        self.built.variables([*variables])

    def row(self, title: str, panels: Sequence[Panel], *, collapsed: bool = False) -> None:
        """Add a row and what is in it."""
        row = dashboard.Row(title).id(self._id()).collapsed(collapsed)
        for panel in panels:
            panel.id(self._id())
        if collapsed:
            for panel in panels:
                row.with_panel(panel)
            self.built.with_row(row)
        else:
            self.built.with_row(row)
            for panel in panels:
                self.built.with_panel(panel)

    def _id(self) -> int:
        self._next_id += 1
        return self._next_id - 1


Other = dashboard.DatasourceVariable | dashboard.TextBoxVariable


def metrics_variables(*, one_run: bool) -> list[dashboard.QueryVariable | Other]:
    """Return data source, job, instance, run and scope; each offers what others leave.

    :param one_run: the run is chosen first, and *All* hosts are those of it, by name: no query
        touches the series of any other host. The scopes are those of all runs, because Grafana
        asks for values by an address, and a proxy may refuse one with a thousand hosts in it.
    """
    job = 'job=~"$job"'
    target = f'{job}, instance=~"$instance"'
    if one_run:
        of_run = f'timers_run_info{{{job}, run_id=~"$run_id"}}'
        instance = _query("instance", "Host", f"label_values({of_run}, instance)", every=None)
        runs, scopes = f"timers_run_info{{{job}}}", f"timers_acquires_total{{{job}}}"
    else:
        instance = _query("instance", "Host", f"label_values(timers_build_info{{{job}}}, instance)")
        runs, scopes = f"timers_run_info{{{target}}}", f"timers_acquires_total{{{target}}}"
    return [
        dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"),
        _query("job", "Job", "label_values(timers_build_info, job)"),
        instance,
        _query("run_id", "Run", f"label_values({runs}, run_id)", one=one_run),
        _query("scope", "Scope", f"label_values({scopes}, scope)"),
    ]


def logs_variables() -> list[dashboard.QueryVariable | Other]:
    """Return the same for Loki, where only ``job`` is sure to be a label: the rest are patterns."""
    job = (
        dashboard.QueryVariable("job")
        .label("Job")
        .query({"type": 1, "label": "job", "stream": "", "refId": "job"})
        .datasource(LOKI)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NATURAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        # Loki refuses a selector that could match nothing.
        .all_value(".+")
        .current(VariableOption(text="All", value="$__all"))
    )
    return [
        dashboard.DatasourceVariable("datasource").label("Loki").type("loki"),
        job,
        _pattern("instance", "Host (regular expression)"),
        _pattern("run_id", "Run (regular expression)"),
        _pattern("scope", "Scope (regular expression)"),
    ]


def reap_annotations() -> dashboard.AnnotationQuery:
    """Mark on every graph where a worker was reaped."""
    labels = f'{SCOPE}, outcome!~"{FAILED}"'
    reaps = selected(f"(increase(timers_reaps_total{{{labels}}}[$__rate_interval]) > 0)")
    mark = (
        dashboard.AnnotationQuery()
        .name("Reaps")
        .datasource(DATASOURCE)
        .enable(enable=True)
        .icon_color("red")
        .expr(f"sum by (instance, scope, outcome) ({reaps})")
        .step("60s")
        .title_format("Reap: {{outcome}}")
        .text_format("{{scope}} on {{instance}}")
        .tag_keys("outcome")
    )
    found: AnnotationQuery = mark.build()
    # Grafana skips a query of ours that has no target, and reads the expression from either.
    found.target = prometheus.Dataquery().expr(found.expr or "").ref_id("Anno").range().build()
    return mark


def _query(
    name: str, label: str, query: str, *, one: bool = False, every: str | None = ".*"
) -> dashboard.QueryVariable:
    """Make a variable that Prometheus fills.

    :param one: of the values one is chosen, rather than any number.
    :param every: what matches when *All* is chosen; None is each of the values by name.
    """
    variable = (
        dashboard.QueryVariable(name)
        .label(label)
        .query({"query": query, "refId": name})
        .datasource(DATASOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NATURAL_ASC)
    )
    if one:
        return variable
    variable.multi(multi=True).include_all(include_all=True)
    variable.current(VariableOption(text="All", value="$__all"))
    return variable if every is None else variable.all_value(every)


def _pattern(name: str, label: str) -> dashboard.TextBoxVariable:
    return (
        dashboard.TextBoxVariable(name)
        .label(label)
        .default_value(".*")
        .current(VariableOption(text=".*", value=".*"))
    )
