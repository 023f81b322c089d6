"""Rows of figures as a table for the terminal, or as JSON."""

from __future__ import annotations

import json
import statistics
from typing import NamedTuple

__all__ = ["Row", "as_json", "as_text", "quantile"]


class Row(NamedTuple):
    """One thing measured: its samples in seconds, or in bytes when ``unit`` says so."""

    name: str
    samples: list[float]
    unit: str = "us"
    base: str | None = None
    """The row that this one is divided by; None for no ratio."""


_SCALES = {"us": 1e6, "ms": 1e3, "s": 1.0, "1/s": 1.0, "KiB": 2**-10, "MiB": 2**-20}


def quantile(samples: list[float], share: float) -> float:
    """The smallest sample that at least ``share`` of all are not above."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def as_text(title: str, rows: list[Row]) -> str:
    """A table: median, p10 and p90 (or p99), and the ratio of medians to the base row."""
    medians = {row.name: statistics.median(row.samples) for row in rows}
    width = max(len(row.name) for row in rows)
    lines = [title, f"{'':{width}}   median      p10      p90      p99  unit   ratio     n"]
    for row in rows:
        scale = _SCALES[row.unit]
        figures = [medians[row.name], *(quantile(row.samples, q) for q in (0.1, 0.9, 0.99))]
        shown = " ".join(f"{figure * scale:8.4g}" for figure in figures)
        base = medians.get(row.base or "")
        ratio = "      -" if base is None else f"{medians[row.name] / base:6.2f}x"
        lines.append(f"{row.name:{width}} {shown}  {row.unit:4} {ratio} {len(row.samples):5d}")
    return "\n".join(lines)


def as_json(title: str, rows: list[Row]) -> str:
    """The same with every sample."""
    return json.dumps({"title": title, "rows": [row._asdict() for row in rows]})
