"""The hang report for people: one sentence, and a text that fits on a screen."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from observability.message import who
from observability.recorder.json import ranges
from observability.samples.frames import library_path
from observability.samples.types import Pace
from observability.untrusted import cut, printable

from .types import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .types import Group, HangReport, Suspect

__all__ = ["listed", "name", "rank_ranges", "render", "sentence"]

MAX_RANGES = 6
MAX_SUSPECTS = 5
MAX_GROUPS = 8
MAX_FRAMES = 6
LONGEST = 160


def rank_ranges(ranks: Iterable[int]) -> str:
    """Write ranks as ``0-2, 5``; of more than six ranges the rest is counted."""
    found = ranges(sorted(set(ranks)))
    words = [str(low) if low == high else f"{low}-{high}" for low, high in found[:MAX_RANGES]]
    left = sum(high - low + 1 for low, high in found[MAX_RANGES:])
    return ", ".join(words) + (f" and {left} more" if left else "")


def name(suspect: Suspect) -> str:
    """``rank 3 (pid 4711 on node7)``, with what is known of it."""
    known = {"worker_pid": suspect.pid, "rank": suspect.rank, "host": suspect.host}
    return who({**known, "worker_name": suspect.name})


def listed(words: Sequence[str], most: int = MAX_SUSPECTS) -> str:
    """``a``, ``a and b``, ``a, b and 7 more``."""
    if len(words) > most:
        words = [*words[:most], f"{len(words) - most} more"]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def sentence(report: HangReport) -> str:
    """Say it in one sentence, which names whose timer expired, whatever the verdict."""
    return _finish(_alone(report) or _verdict(report) + _expired(report))


def _alone(report: HangReport) -> str:
    """Say all there is to say of a worker that nobody can be compared with."""
    if report.suspects or report.lagging or report.workers != 1:
        return ""
    if len(report.groups) != 1 or len(report.expired) != 1:
        return ""
    (group,), (expired,) = report.groups, report.expired
    scope = f" in scope {expired.scope_id!r}" if expired.scope_id else ""
    at = f" at {group.frame}" if group.frame else ""
    return f"{name(expired)} overran its deadline{scope}: it is {group.what}{at}; {report.reason}"


def _expired(report: HangReport) -> str:
    """Name those whose timer expired, unless one of them is named already."""
    named = {(each.host, each.pid) for each in report.suspects or report.lagging}
    if not report.expired or any((each.host, each.pid) in named for each in report.expired):
        return ""
    first, *others = report.expired
    whose = name(first)
    ranks = [each.rank for each in report.expired if each.rank is not None]
    if others and len(ranks) == len(report.expired):
        whose = f"ranks {rank_ranges(ranks)}"
    elif others:
        whose = f"{whose} and {len(others)} more"
    scope = f" in scope {first.scope_id!r}" if first.scope_id else ""
    at = f" at {first.frame}" if first.frame else ""
    return f"; the timer{'s' if others else ''} of {whose} expired{scope}{at}"


def _verdict(report: HangReport) -> str:
    named = report.suspects or report.lagging
    said = " ".join(suspect.holds_up for suspect in named)
    names = {worker_name(each.rank, each.pid, each.host) for each in named}
    meanwhile = _meanwhile(report.groups, names, said)
    clauses = listed([_clause(each) for each in named], 3) if named else ""
    if report.verdict is Verdict.CYCLE:
        where = [f"{name(each)} is at {each.frame}" for each in named if each.frame]
        return f"{report.reason}{'; ' if where else ''}{listed(where, 3) if where else ''}"
    if report.verdict is Verdict.DIFFERENT_COLLECTIVES and said:
        called = listed([f"{name(each)} {each.holds_up}" for each in named], 3)
        return f"{called}: {listed([_at(group) for group in report.groups], 3)}"
    if report.verdict is Verdict.SLOW and not report.suspects:
        return f"{clauses}{meanwhile}: slow rather than stuck, perhaps the deadline is too short"
    if named:
        doubt = "" if report.suspects else ", but nobody knows whether it is stuck"
        return f"{clauses}{meanwhile}{doubt}"
    return _about_nobody(report)


def _about_nobody(report: HangReport) -> str:
    if report.verdict is Verdict.COMMON_WAIT:
        differs = "no rank differs" if len(report.groups) == 1 else "no rank stands out"
        return f"{differs}: {_where(report.groups)}; {report.reason}"
    if report.verdict is Verdict.DIFFERENT_COLLECTIVES:
        return f"{report.reason}: {listed([_place(group) for group in report.groups], 3)}"
    return f"no worker can be accused: {report.reason}"


def _finish(text: str) -> str:
    text = printable(text)
    return f"{text[:1].upper()}{text[1:]}."


def _clause(suspect: Suspect) -> str:
    at = f" at {suspect.frame}" if suspect.frame else ""
    missed = f" and {suspect.holds_up}" if suspect.holds_up else ""
    return f"{name(suspect)} {suspect.why}{at}{missed}"


def worker_name(rank: int | None, pid: int | str, host: str) -> str:
    """Short, and different for each worker of a run."""
    if rank is not None:
        return f"rank {rank}"
    return f"pid {pid} on {host}" if host else f"pid {pid}"


def _meanwhile(groups: Sequence[Group], named: set[str], said: str) -> str:
    others = [group for group in groups if not named.issuperset(group.workers)]
    if not others:
        return ""
    size = sum(not named.intersection([worker]) for worker in others[0].workers)
    total = sum(group.size for group in others)
    count = f"{size}" if size == total else f"{size} of the {total} others"
    who = "the other rank" if size == total == 1 else f"{count} ranks" if size == total else count
    at = f" at {others[0].frame}" if others[0].frame else ""
    what = others[0].what
    if what.removeprefix("waiting in ") in said:
        what = "waiting in it"
    return f" while {who} {'is' if size == 1 else 'are'} {what}{at}"


def _where(groups: Sequence[Group]) -> str:
    if not groups:
        return "nothing is known of any"
    first = groups[0]
    total = sum(group.size for group in groups)
    who = f"{first.size} of {total} ranks are"
    if total == first.size:
        who = f"all {total} ranks are" if total > 1 else f"{first.workers[0]} is"
    return f"{who} {first.what}" + (f" at {first.frame}" if first.frame else "")


def _place(group: Group) -> str:
    at = f" at {group.frame}" if group.frame else ""
    return f"{_who(group)} {group.what}{at}"


def _at(group: Group) -> str:
    verb = "is" if group.size == 1 else "are"
    return (
        f"{_who(group)} {verb} at {group.frame}" if group.frame else f"{_who(group)} {group.what}"
    )


def _who(group: Group) -> str:
    if group.size == 1:
        return group.workers[0]
    if len(group.ranks) == group.size:
        return f"ranks {rank_ranges(group.ranks)}"
    return f"{group.size} workers"


def render(report: HangReport, *, width: int = LONGEST) -> str:
    """Write the report as text of at most a screen: about 40 lines, whatever the number of ranks.

    :param width: characters to which a line is cut.
    """
    lines = [*_wrapped(report.sentence, width), ""]
    hosts = "" if report.hosts < 2 else f" on {report.hosts} hosts"  # noqa: PLR2004  # plural
    lines.append(
        f"verdict: {report.verdict} (confidence {report.confidence}); "
        f"{report.workers} worker{'' if report.workers == 1 else 's'}{hosts}"
    )
    by = f" (by {listed(report.evidence)})" if report.evidence else ""
    lines += _wrapped(f"because: {report.reason}{by}", width)
    if report.missing_ranks:
        lines.append(f"unknown: ranks {rank_ranges(report.missing_ranks)} were not seen")
    if report.unheard:
        lines += _wrapped(f"not heard: {listed(report.unheard)}", width)
    for title, suspects in (("suspect", report.suspects), ("held up by", report.lagging)):
        for suspect in suspects[:MAX_SUSPECTS]:
            lines += _wrapped(f"{title}: {_clause(suspect)}", width)
            lines.extend(f"    also {line}" for line in suspect.also[:3])
        if len(suspects) > MAX_SUSPECTS:
            lines.append(f"    and {len(suspects) - MAX_SUSPECTS} more")
    if report.groups:
        lines.append("")
    lines.extend(_group_lines(report.groups))
    lines = [printable(line) for line in lines]
    return "\n".join(cut(line, width) for line in lines)


def _wrapped(text: str, width: int) -> list[str]:
    # Never inside a path, which people copy.
    return textwrap.wrap(
        text, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _group_lines(groups: Sequence[Group]) -> Iterable[str]:
    # The marked ones are never among those left out.
    shown = sorted(groups, key=lambda group: not group.suspected)[:MAX_GROUPS]
    shown.sort(key=lambda group: -group.size)
    depth = MAX_FRAMES if len(shown) <= 4 else 2  # noqa: PLR2004  # 8 groups of 3 lines, or 4 of 7
    for group in shown:
        mark = "*" if group.suspected else " "
        pace = "" if group.pace is Pace.UNKNOWN else f" [{group.pace}]"
        yield f"{mark} {group.size} x {group.what}{pace}: {_who(group)}"
        yield from (f"      {library_path(frame) or frame}" for frame in group.frames[:depth])
        if len(group.frames) > depth:
            yield f"      ... {len(group.frames) - depth} more calls"
    if len(groups) > len(shown):
        rest = sum(group.size for group in groups) - sum(group.size for group in shown)
        yield f"  and {rest} workers in {len(groups) - len(shown)} more places"
