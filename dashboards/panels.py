"""The few kinds of panel our dashboards are made of, over grafana-foundation-sdk.

Every function takes the title and what to do when the panel is red first, because a panel without
either must not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    logs,
    loki,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["DATASOURCE", "Column", "Query", "bars", "events", "gauges", "lines", "number", "rows"]

DATASOURCE = kinds.DataSourceRef(type_val="prometheus", uid="${datasource}")
LOKI = kinds.DataSourceRef(type_val="loki", uid="${datasource}")

GREEN, YELLOW, ORANGE, RED = "green", "yellow", "orange", "red"
Steps: TypeAlias = "Sequence[tuple[float, str]]"
Panel: TypeAlias = "timeseries.Panel | stat.Panel | table.Panel | bargauge.Panel | logs.Panel"


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel, in PromQL, or in LogQL when ``logql``."""

    expr: str
    legend: str = ""
    logql: bool = False
    exemplars: bool = False
    """Whether to show the traces that are kept with some values, each as a point that opens one."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    unit: str = ""
    width: int = 0
    steps: Steps = ()
    decimals: int | None = None
    link: tuple[str, str] | None = None
    """Title and address."""


def number(
    title: str,
    help_text: str,
    query: Query,
    *,
    unit: str = "short",
    steps: Steps = (),
    decimals: int | None = None,
) -> stat.Panel:
    """Show one big number, colored by ``steps``: (from this value on, color)."""
    panel = (
        stat.Panel()
        .title(title)
        .description(help_text)
        .datasource(_source([query]))
        .with_target(_target(query, 0, instant=True))
        .unit(unit)
        .no_value("no data")
        .thresholds(_thresholds(steps))
        .color_scheme(_by_threshold())
        # A mere count is neither good nor bad.
        .color_mode(kinds.BigValueColorMode.BACKGROUND if steps else kinds.BigValueColorMode.NONE)
        .graph_mode(kinds.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .span(4)
        .height(4)
    )
    return panel if decimals is None else panel.decimals(decimals)


def lines(
    title: str,
    help_text: str,
    queries: Sequence[Query],
    *,
    unit: str,
    steps: Steps = (),
    span: int = 12,
    log_scale: bool = False,
    stacked: bool = False,
    fill: int = 8,
    at_least: float | None = None,
    rare: bool = False,
    points: int = 0,
    colors: Mapping[str, str] | None = None,
) -> timeseries.Panel:
    """Make a graph over time.

    :param steps: drawn as dashed lines, where it gets serious.
    :param at_least: how far up the axis reaches even when all values are small.
    :param rare: most moments have no value: show each one, and connect them.
    :param points: how many moments to ask for at most, rather than one for each pixel.
    :param colors: of series, by name.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(help_text)
        .datasource(_source(queries))
        .targets([_target(query, number) for number, query in enumerate(queries)])
        .unit(unit)
        .min(0)
        .line_width(2)
        .fill_opacity(70 if stacked else fill)
        .show_points(kinds.VisibilityMode.ALWAYS if rare else kinds.VisibilityMode.AUTO)
        .span_nulls(span_nulls=rare)
        .no_value("nothing in this time range")
        .color_scheme(_palette())
        .legend(_legend())
        .tooltip(
            common.VizTooltipOptions()
            .mode(kinds.TooltipDisplayMode.MULTI)
            .sort(kinds.SortOrder.DESCENDING)
        )
        .span(span)
        .height(8)
    )
    if steps:
        panel.thresholds(_thresholds(steps)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED)
        )
    if log_scale:
        panel.scale_distribution(
            common.ScaleDistributionConfig().type(kinds.ScaleDistribution.LOG).log(10)
        )
    if points:
        panel.max_data_points(points)
    if at_least is not None:
        panel.axis_soft_max(at_least)
    for name, color in (colors or {}).items():
        fixed = {"mode": "fixed", "fixedColor": color}
        panel.override_by_name(name, [DynamicConfigValue("color", fixed)])
    if stacked:
        panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL))
    # The deadline is what the other lines are measured against.
    return panel.override_by_regexp(
        "/^deadline/",
        [
            DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 8]}),
            DynamicConfigValue("custom.fillOpacity", 0),
        ],
    )


def bars(
    title: str,
    help_text: str,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    span: int = 12,
    interval: str = "1m",
    points: int = 0,
) -> timeseries.Panel:
    """Make stacked bars over time: how many things happened.

    ``interval`` is the least width of a bar: with it the window of ``$__rate_interval`` is hardly
    longer than the bar, so that one event is one bar of height 1 and not four.
    """
    return (
        lines(title, help_text, queries, unit=unit, span=span, points=points)
        .draw_style(kinds.GraphDrawStyle.BARS)
        .stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL))
        .fill_opacity(80)
        .line_width(0)
        .decimals(0)
        .axis_soft_max(1)
        .interval(interval)
    )


def gauges(
    title: str,
    help_text: str,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    steps: Steps = (),
    span: int = 8,
    decimals: int | None = None,
    maximum: float | None = None,
) -> bargauge.Panel:
    """Make horizontal bars, one for each series, as they stand at the end of the time range."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(help_text)
        .datasource(_source(queries))
        .targets([_target(query, number, instant=True) for number, query in enumerate(queries)])
        .unit(unit)
        .min(0)
        .thresholds(_thresholds(steps))
        .color_scheme(_by_threshold())
        .orientation(kinds.VizOrientation.HORIZONTAL)
        .display_mode(kinds.BarGaugeDisplayMode.BASIC)
        .sizing(kinds.BarGaugeSizing.MANUAL)
        .min_viz_height(16)
        .max_viz_height(44)
        .name_placement(kinds.BarGaugeNamePlacement.TOP)
        .no_value("nothing in this time range")
        .text(common.VizTextDisplayOptions().title_size(13).value_size(16))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .span(span)
        .height(8)
    )
    if decimals is not None:
        panel.decimals(decimals)
    return panel if maximum is None else panel.max(maximum)


def rows(
    title: str,
    help_text: str,
    queries: Sequence[Query],
    columns: Mapping[str, Column],
    *,
    span: int = 24,
    sort_by: str = "",
) -> table.Panel:
    """Make a table. ``columns`` maps the label or ``Value #A`` to its column, in order of display.

    What is not among ``columns`` is not shown.
    """
    panel = (
        table.Panel()
        .title(title)
        .description(help_text)
        .datasource(_source(queries))
        .targets(
            [
                _target(query, number, instant=True, rows=True)
                for number, query in enumerate(queries)
            ]
        )
        .with_transformation(DataTransformerConfig("merge", options={}))
        .with_transformation(
            DataTransformerConfig("filterFieldsByName", options={"include": {"names": [*columns]}})
        )
        .with_transformation(
            DataTransformerConfig(
                "organize",
                options={
                    "excludeByName": {},
                    "indexByName": {name: place for place, name in enumerate(columns)},
                    "renameByName": {name: column.title for name, column in columns.items()},
                },
            )
        )
        .cell_height(kinds.TableCellHeight.SM)
        .span(span)
        .height(8)
    )
    if sort_by:
        panel.sort_by([common.TableSortByFieldState().display_name(sort_by).desc(desc=True)])
    for column in columns.values():
        if properties := _properties(column):
            panel.override_by_name(column.title, properties)
    return panel


def events(title: str, help_text: str, query: Query, *, span: int = 24) -> logs.Panel:
    """Show the log lines themselves."""
    return (
        logs.Panel()
        .title(title)
        .description(help_text)
        .datasource(LOKI)
        .with_target(_target(query, 0))
        .show_time(show_time=True)
        .wrap_log_message(wrap_log_message=True)
        .enable_log_details(enable_log_details=True)
        .span(span)
        .height(12)
    )


def _properties(column: Column) -> list[DynamicConfigValue]:
    found: dict[str, object] = {}
    if column.unit:
        found["unit"] = column.unit
    if column.decimals is not None:
        found["decimals"] = column.decimals
    if column.width:
        found["custom.width"] = column.width
    if column.steps:
        found["thresholds"] = _thresholds(column.steps).build().to_json()
        found["custom.cellOptions"] = {"type": "color-background", "mode": "basic"}
    if column.link:
        found["links"] = [{"title": column.link[0], "url": column.link[1]}]
    return [DynamicConfigValue(name, value) for name, value in found.items()]


def _target(
    query: Query, place: int, *, instant: bool = False, rows: bool = False
) -> prometheus.Dataquery | loki.Dataquery:
    name = chr(ord("A") + place)
    if query.logql:
        line = loki.Dataquery().expr(query.expr).ref_id(name).legend_format(query.legend)
        return line.query_type("instant" if instant else "range").datasource(LOKI)
    found = prometheus.Dataquery().expr(query.expr).ref_id(name).datasource(DATASOURCE)
    if query.legend:
        found.legend_format(query.legend)
    if rows:
        found.format(PromQueryFormat.TABLE)
    if query.exemplars:
        found.exemplar(exemplar=True)
    return found.instant() if instant else found.range()


def _source(queries: Sequence[Query]) -> kinds.DataSourceRef:
    return LOKI if queries[0].logql else DATASOURCE


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    base = [Threshold(value=None, color=GREEN)]
    above = [Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(base + above)


def _by_threshold() -> dashboard.FieldColor:
    return dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS)


def _palette() -> dashboard.FieldColor:
    return dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC)


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(kinds.LegendDisplayMode.LIST)
        .placement(kinds.LegendPlacement.BOTTOM)
        .show_legend(show_legend=True)
        .calcs([])
    )
