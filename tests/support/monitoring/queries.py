"""The dashboards' queries, with Grafana's variables filled in, for asking Prometheus directly."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "SCRAPE_SECONDS",
    "Asked",
    "Chosen",
    "annotation_queries",
    "as_grafana_asks",
    "opened_seconds",
    "panel_queries",
    "variable_queries",
]

SCRAPE_SECONDS = 15
"""Between two scrapes, and what a data source of Grafana takes it to be."""
_SCREEN, _COLUMNS = 1920, 24
"""Pixels from left to right, and into how many columns a dashboard divides them."""
_ROUND = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 21600)
"""Steps that Grafana takes, in seconds."""
_SECONDS = {"s": 1, "m": 60, "h": 3600}


class Asked(NamedTuple):
    """A query and what it is for."""

    panel: str
    expr: str
    is_instant: bool = False
    """Whether it is evaluated at the end of the range alone, for a table or a single figure."""
    step: str = ""
    """The time between two points: the least, where the panel says it; exactly, in
    :func:`as_grafana_asks`."""


@dataclass(frozen=True)
class Chosen:
    """What Grafana would fill in."""

    run_id: str = ".*"
    hosts: str = ".*"
    window: str = "10s"
    """What rates are taken over: Grafana takes four times the scrape interval."""
    range: str = "2m"

    def fill(self, expr: str) -> str:
        """Fill the variables of ``expr`` in."""
        values = {
            "$__rate_interval": self.window,
            "$__range": self.range,
            "$run_id": self.run_id,
            "$job": ".*",
            "$instance": self.hosts,
            "$scope": ".*",
        }
        for name, value in values.items():
            expr = expr.replace(name, value)
        assert "$" not in expr, expr
        return expr


def panel_queries(path: Path, chosen: Chosen) -> Iterator[Asked]:
    """Every query of every panel, those of collapsed rows included."""
    board = json.loads(path.read_text())
    for panel in board["panels"]:
        for each in (panel, *panel.get("panels", [])):
            for target in each.get("targets", ()):
                yield Asked(
                    f"{each['title']} {target['refId']}",
                    chosen.fill(target["expr"]),
                    bool(target.get("instant")),
                    each.get("interval", ""),
                )


def annotation_queries(path: Path, chosen: Chosen) -> Iterator[Asked]:
    """The queries that mark something on the graphs."""
    for each in json.loads(path.read_text())["annotations"]["list"]:
        yield Asked(each["name"], chosen.fill(each["target"]["expr"]), step=each["step"])


def variable_queries(path: Path) -> Iterator[tuple[str, str, str]]:
    """The variables that Prometheus fills: name, series selector and label."""
    for each in json.loads(path.read_text())["templating"]["list"]:
        if each["type"] == "query":
            text = each["query"]["query"].removeprefix("label_values(").removesuffix(")")
            series, label = text.rsplit(", ", 1)
            yield each["name"], Chosen().fill(series), label


def opened_seconds(path: Path) -> int:
    """How far back a dashboard looks when it is opened."""
    return _seconds(json.loads(path.read_text())["time"]["from"].removeprefix("now-"))


def as_grafana_asks(path: Path, chosen: Chosen, seconds: int) -> Iterator[Asked]:
    """Every query, with the step and the windows that Grafana computes for such a time range.

    A panel has as many points as it says or as its width has pixels, and none closer than the
    panel says or than scrapes are; a step is the nearest of the round ones, the lower of two.
    Windows of rates are a step and a scrape long, but at least four scrapes. Marks have a point
    for each pixel.
    """
    board = json.loads(path.read_text())
    chosen = replace(chosen, range=f"{seconds}s")

    def asked(name: str, expr: str, *, instant: bool, least: str, points: int) -> Asked:
        step = max(_seconds(least) if least else SCRAPE_SECONDS, _nearest(seconds / points))
        window = max(step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS)
        return Asked(name, replace(chosen, window=f"{window}s").fill(expr), instant, str(step))

    for panel in board["panels"]:
        for each in (panel, *panel.get("panels", [])):
            for target in each.get("targets", ()):
                yield asked(
                    f"{each['title']} {target['refId']}",
                    target["expr"],
                    instant=bool(target.get("instant")),
                    least=each.get("interval", ""),
                    points=each.get("maxDataPoints") or each["gridPos"]["w"] * _SCREEN // _COLUMNS,
                )
    for each in board["annotations"]["list"]:
        expr = each["target"]["expr"]
        yield asked(each["name"], expr, instant=False, least=each["step"], points=_SCREEN)


def _nearest(seconds: float) -> int:
    return min(_ROUND, key=lambda each: abs(each - seconds))


def _seconds(text: str) -> int:
    return int(text[:-1]) * _SECONDS[text[-1]]
