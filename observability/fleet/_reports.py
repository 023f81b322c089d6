"""A hang report to and from JSON; what :meth:`.HangReport.to_dict` cuts is kept as ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from observability.hang.text import worker_name
from observability.hang.types import Confidence, Group, HangReport, Node, Suspect, Verdict
from observability.samples.types import Pace
from observability.untrusted import printable, replaced

from ._messages import RefusedError, ranks_from, ranks_text

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_LISTED = 100
_MOST_GROUPS = 200
_MOST_WORKERS = 1 << 20
_MOST_NODES = 500
_MOST_DEPTH = 64
_MOST_LINES = 200
_LONGEST = 4000


def report_to(report: HangReport) -> dict[str, Any]:
    """Return a report as plain data."""
    plain = report.to_dict()
    plain["groups"] = [
        {
            "what": group.what,
            "frame": group.frame,
            "frames": list(group.frames[:60]),
            "ranks": ranks_text(group.ranks),
            "others": [] if len(group.ranks) == group.size else list(group.workers[:_MOST_LISTED]),
            "suspected": group.suspected,
            "pace": group.pace.value,
        }
        for group in report.groups[:_MOST_GROUPS]
    ]
    plain["missing_ranks"] = ranks_text(report.missing_ranks)
    return plain


def report_from(value: object) -> HangReport:
    """Read a report.

    :raises RefusedError: it is none, or goes beyond a bound.
    """
    if not isinstance(value, dict):
        raise RefusedError("wrong_type", "no report")
    try:
        plain = replaced(value, str, lambda text: printable(text[:_LONGEST]))
    except RecursionError:
        raise RefusedError("out_of_range", "depth of a report") from None
    try:
        verdict = Verdict(plain.get("verdict"))
        confidence = Confidence(plain.get("confidence"))
    except ValueError:
        raise RefusedError("out_of_range", "verdict or confidence of a report") from None
    groups = tuple(_group(each) for each in _objects(plain, "groups", _MOST_GROUPS))
    if sum(group.size for group in groups) > _MOST_WORKERS:
        raise RefusedError("out_of_range", "workers of a report")
    budget = [_MOST_NODES]
    return HangReport(
        verdict=verdict,
        confidence=confidence,
        reason=_text(plain, "reason"),
        sentence=_text(plain, "sentence"),
        evidence=_lines(plain.get("evidence")),
        suspects=_suspects(plain, "suspects"),
        lagging=_suspects(plain, "lagging"),
        expired=_suspects(plain, "expired"),
        groups=groups,
        tree=_nodes(plain.get("tree"), budget, 0),
        workers=_count(plain.get("workers")) or 0,
        hosts=_count(plain.get("hosts")) or 0,
        missing_ranks=ranks_from(plain.get("missing_ranks"), most=_MOST_WORKERS),
        unheard=_lines(plain.get("unheard")),
    )


def _objects(plain: dict[str, Any], name: str, most: int) -> list[dict[str, Any]]:
    found = plain.get(name)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise RefusedError("wrong_type", f"{name} of a report")
    if len(found) > most:
        raise RefusedError("too_many", f"{name} of a report")
    return found


def _suspects(plain: dict[str, Any], name: str) -> tuple[Suspect, ...]:
    return tuple(_suspect(each) for each in _objects(plain, name, _MOST_LISTED))


def _suspect(plain: dict[str, Any]) -> Suspect:
    pid = plain.get("pid")
    return Suspect(
        pid=pid if isinstance(pid, str) else _count(pid) or 0,
        host=_text(plain, "host"),
        rank=_count(plain.get("rank")),
        local_rank=_count(plain.get("local_rank")),
        name=_text(plain, "name"),
        scope_id=_text(plain, "scope_id") or None,
        frame=_text(plain, "frame") or None,
        why=_text(plain, "why"),
        holds_up=_text(plain, "holds_up"),
        pace=_pace(plain),
        child_pid=_count(plain.get("child_pid")),
        also=_lines(plain.get("also")),
    )


def _group(plain: dict[str, Any]) -> Group:
    ranks = ranks_from(plain.get("ranks"), most=_MOST_WORKERS)
    others = _lines(plain.get("others"))
    return Group(
        what=_text(plain, "what"),
        frame=_text(plain, "frame") or None,
        frames=_lines(plain.get("frames")),
        workers=others or tuple(worker_name(rank, 0, "") for rank in ranks),
        ranks=ranks,
        suspected=plain.get("suspected") is True,
        pace=_pace(plain),
    )


def _nodes(value: object, budget: list[int], depth: int) -> tuple[Node, ...]:
    found = []
    for each in value if isinstance(value, list) else ():
        if not isinstance(each, dict) or budget[0] <= 0 or depth > _MOST_DEPTH:
            raise RefusedError("out_of_range", "tree of a report")
        budget[0] -= 1
        found.append(
            Node(
                _text(each, "frame"),
                _count(each.get("count")) or 0,
                _count(each.get("suspects")) or 0,
                _nodes(each.get("children"), budget, depth + 1),
            )
        )
    return tuple(found)


def _lines(value: object) -> tuple[str, ...]:
    lines: Iterable[Any] = value if isinstance(value, list) else ()
    return tuple(line for line in lines if isinstance(line, str))[:_MOST_LINES]


def _text(plain: dict[str, Any], name: str) -> str:
    value = plain.get(name)
    return value if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40
    return value if known and isinstance(value, int) else None


def _pace(plain: dict[str, Any]) -> Pace:
    return next((pace for pace in Pace if pace == plain.get("pace")), Pace.UNKNOWN)
