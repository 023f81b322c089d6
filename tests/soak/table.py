"""The result of a run as a table for the terminal, or as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .run import Result

__all__ = ["as_json", "as_text"]

_MOST_SHOWN = 50


def as_text(result: Result) -> str:
    """A table: planned, seen, difference; growth; and in words whatever is not as planned."""
    early = ", stopped early" if result.stopped_early else ""
    title = f"Soak of {result.seconds:.0f} s, pair {result.pair}, seed {result.seed}{early}"
    names = [*(row.what for row in result.rows), *(each.what for each in result.growth)]
    width = max(map(len, names))
    lines = [title, "", *_mix(result), ""]
    lines.append(f"{'':{width}}    planned       seen  difference")
    for row in result.rows:
        different = f"{row.seen - row.planned:+d}" if row.seen != row.planned else "-"
        if row.differences:
            mark = "  !"
        else:
            mark = f"  (down to -{row.short} allowed)" if row.short else ""
        lines.append(f"{row.what:{width}} {row.planned:10d} {row.seen:10d} {different:>11}{mark}")
    lines += ["", f"{'the service holds':{width}}      first       last     allowed"]
    for each in result.growth:
        mark = "" if each.is_bounded else "  !"
        figures = f"{each.first:10.4g} {each.last:10.4g} {each.slack:+11.4g}"
        lines.append(f"{each.what:{width}} {figures} {each.unit:3}{mark}".rstrip())
    lines += ["", f"The service used {100 * result.cpu_share:.0f} % of one core."]
    if result.kept is not None:
        lines.append(f"Journals and events are in {result.kept}.")
    return "\n".join([*lines, "", *_verdict(result)])


def _mix(result: Result) -> list[str]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(result.kinds.items()))
    visits = ", ".join(f"{count} {path}" for path, count in sorted(result.visits.items()))
    return [f"workers: {kinds}", f"visits:  {visits}"]


def _verdict(result: Result) -> list[str]:
    found = result.differences
    if not found:
        return ["Exact: everything was counted once, everybody ended as planned, nothing grew."]
    lines = [f"NOT exact, {len(found)} differences:"]
    lines += [f"  {words}" for words in found[:_MOST_SHOWN]]
    return [*lines, *(["  ..."] if len(found) > _MOST_SHOWN else [])]


def as_json(result: Result) -> str:
    """The same as one object."""
    found = dataclasses.asdict(result)
    found["rows"] = [row._asdict() for row in result.rows]
    found["growth"] = [{**each._asdict(), "is_bounded": each.is_bounded} for each in result.growth]
    found["exact"] = not result.differences
    return json.dumps(found)
