"""The dashboards' queries, with Grafana's variables filled in, for asking Prometheus directly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Asked", "Chosen", "annotation_queries", "panel_queries", "variable_queries"]


class Asked(NamedTuple):
    """A query and what it is for."""

    panel: str
    expr: str
    is_instant: bool = False
    """Whether it is evaluated at the end of the range alone, for a table or a single figure."""
    step: str = ""
    """The least time between two points, where the panel says it."""


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
