"""Rows of figures as a table: for the terminal, for Markdown, or as JSON with every sample."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Row", "as_json", "as_markdown", "as_text", "find", "quantile"]


class Row(NamedTuple):
    """One thing measured: its samples in seconds, or in what ``unit`` says."""

    name: str
    samples: list[float]
    unit: str = "us"
    base: str | None = None
    """The row that this one is divided by; None for no ratio."""

    @property
    def median(self) -> float:
        """Of the samples, unscaled."""
        return statistics.median(self.samples)


_SCALES = {
    "us": 1e6,
    "ms": 1e3,
    "s": 1.0,
    "1/s": 1.0,
    "B": 1.0,
    "KiB": 2**-10,
    "MiB": 2**-20,
    "%": 100.0,
    "": 1.0,
}


def quantile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least ``share`` of all are not above."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def find(rows: Sequence[Row], name: str) -> Row:
    """The row of that name, which must be there."""
    return next(row for row in rows if row.name == name)


def as_text(title: str, rows: Sequence[Row]) -> str:
    """A table: median, p10, p90, p99, and the ratio of medians to the base row."""
    width = max(len(row.name) for row in rows)
    lines = [title, f"{'':{width}}    median       p10       p90       p99  unit    ratio     n"]
    for row in rows:
        shown = " ".join(f"{figure:>9}" for figure in _figures(row))
        lines.append(
            f"{row.name:{width}} {shown}  {row.unit:4} {_ratio(row, rows):>8} {len(row.samples):5d}"
        )
    return "\n".join(lines)


def as_markdown(title: str, rows: Sequence[Row]) -> str:
    """The same for a README: median, p10 to p90, ratio."""
    lines = [f"| {title} | median | p10 to p90 | ratio |", "|---|---|---|---|"]
    for row in rows:
        median, low, high, _ = _figures(row)
        lines.append(
            f"| {row.name} | {median} {row.unit} | {low} to {high} | {_ratio(row, rows)} |"
        )
    return "\n".join(lines)


def as_json(title: str, rows: Sequence[Row]) -> str:
    """The same with every sample, on one line."""
    return json.dumps({"title": title, "rows": [row._asdict() for row in rows]})


def _figures(row: Row) -> list[str]:
    scale = _SCALES[row.unit]
    figures = [row.median, *(quantile(row.samples, share) for share in (0.1, 0.9, 0.99))]
    return [_shown(figure * scale) for figure in figures]


def _shown(figure: float) -> str:
    return f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:.4g}"


def _ratio(row: Row, rows: Sequence[Row]) -> str:
    if row.base is None:
        return "-"
    base = find(rows, row.base).median
    return f"{row.median / base:.2f}x" if base else "-"
