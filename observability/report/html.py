"""The hang report as one HTML page: no script, nothing loaded, so that it can be mailed."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from observability.hang.text import name, rank_ranges
from observability.untrusted import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from observability.hang.types import Group, HangReport, Node, Suspect

    from .incidents import Incident

__all__ = ["page"]

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
  color: #1c2126; background: #fff; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
code, .tree { font: 13px/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
.say { font-size: 1.15rem; padding: .8rem 1rem; border-left: .3rem solid #5b6b7a;
  background: #f2f4f6; }
.accused .say { border-color: #b3261e; background: #fdf1f0; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .3rem .8rem .3rem 0;
  vertical-align: top; }
.tree ul { list-style: none; margin: 0; padding-left: 1.1rem; border-left: 1px solid #c9d1d8; }
.tree > ul { padding-left: 0; border: 0; }
.bar { display: inline-block; height: .55rem; min-width: 2px; background: #7d93a8;
  margin-right: .5rem; }
.suspect { color: #b3261e; font-weight: 600; } .suspect .bar, .bar.suspect { background: #b3261e; }
.rest { color: #5b6b7a; font-weight: 400; }
@media (prefers-color-scheme: dark) {
  body { color: #e4e8ec; background: #15191d; } .say { background: #20262c; }
  .accused .say { background: #3a1f1d; } .suspect { color: #ff8a80; }
  .bar.suspect, .suspect .bar { background: #ff8a80; } .rest { color: #a3b0bc; }
}
"""
BAR_REM = 12.0
"""Width of the bar that stands for all workers."""


def page(run_id: str, incidents: Sequence[Incident]) -> str:
    """Write the page for the hangs of one run."""
    body = "".join(_incident(incident) for incident in incidents)
    title = f"Hang report{f' of run {_text(run_id)}' if run_id else ''}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f"{body or '<p>No timer expired.</p>'}\n</body>\n</html>\n"
    )


def _incident(incident: Incident) -> str:
    report = incident.report
    accused = ' class="accused"' if report.suspects else ""
    scopes = ", ".join(incident.scopes)
    where = f"{report.workers} workers on {report.hosts} hosts"
    facts = [
        ("verdict", f"{report.verdict} (confidence {report.confidence})"),
        ("because", report.reason),
        ("noticed", incident.started),
        ("scopes", scopes),
        ("seen", where),
        ("not seen", f"ranks {rank_ranges(report.missing_ranks)}" if report.missing_ranks else ""),
    ]
    rows = "".join(
        f"<tr><th>{label}</th><td>{_text(value)}</td></tr>" for label, value in facts if value
    )
    return (
        f"<section{accused}>\n<h2>{_text(incident.started)}</h2>\n"
        f'<p class="say">{_text(report.sentence)}</p>\n<table>{rows}</table>\n'
        f"{_named('Suspects', report.suspects)}{_named('Held up by', report.lagging)}"
        f"{_groups(report.groups)}{_tree(report)}</section>\n"
    )


def _named(title: str, suspects: Sequence[Suspect]) -> str:
    if not suspects:
        return ""
    items = "".join(
        f"<li>{_text(name(each))} {_text(each.why)}{_lines([each.frame or '', *each.also])}</li>"
        for each in suspects[:100]
    )
    return f"<h2>{title}</h2>\n<ul>{items}</ul>\n"


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"<br><code>{_text(line)}</code>" for line in lines if line)


def _groups(groups: Sequence[Group]) -> str:
    items = "".join(
        f"<tr{_marked(each.suspected)}><td>{each.size}</td><td>{_text(each.what)}</td>"
        f"<td>{_text(_members(each))}</td>"
        f"<td><code>{_text(each.frame or '')}</code></td></tr>"
        for each in groups[:50]
    )
    if not items:
        return ""
    head = "<tr><th>workers</th><th>are</th><th>which</th><th>at</th></tr>"
    return f"<h2>Where they are</h2>\n<table>{head}{items}</table>\n"


def _members(group: Group) -> str:
    if len(group.ranks) == group.size:
        return f"rank{'' if group.size == 1 else 's'} {rank_ranges(group.ranks)}"
    return ", ".join(group.workers[:4]) + (" and more" if group.size > 4 else "")  # noqa: PLR2004  # the four that are shown


def _tree(report: HangReport) -> str:
    if not report.tree:
        return ""
    whole = max(1, report.workers)
    drawn = _branches(report.tree, whole)
    return f'<h2>All stacks, merged</h2>\n<div class="tree">{drawn}</div>\n'


def _branches(nodes: Sequence[Node], whole: int) -> str:
    if not nodes:
        return ""
    items = "".join(_branch(node, whole) for node in nodes)
    return f"<ul>{items}</ul>"


def _branch(node: Node, whole: int) -> str:
    # Marked from where the suspects part from the others; before, everybody is on the way.
    marked = node.suspects == node.count
    width = BAR_REM * node.count / whole
    share = f"{node.count} worker{'' if node.count == 1 else 's'}"
    if node.suspects and not marked:
        share += f", {node.suspects} suspected"
    return (
        f'<li{_marked(marked)}><span class="bar" style="width:{width:.2f}rem"></span>'
        f'{_text(node.frame)} <span class="rest">{share}</span>'
        f"{_branches(node.children, whole)}</li>"
    )


def _marked(marked: bool) -> str:
    return ' class="suspect"' if marked else ""


def _text(value: str) -> str:
    return escape(printable(value))
