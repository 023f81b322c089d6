"""``timers report``: what the event files of one or many hosts say together."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from observability.hang.text import render

from ._deadlines import Advice, render_advice
from ._ending import Ending
from ._files import EventFiles, UnusableError
from .html import page
from .incidents import WANTED, incidents

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._deadlines import ScopeAdvice
    from .incidents import Incident

__all__ = ["NOBODY", "SUSPECT", "UNUSABLE", "UnusableError", "report", "width", "write"]

NOBODY = 0
"""Exit status: nothing points at anybody."""
SUSPECT = 1
UNUSABLE = 2


@click.command(
    epilog="Exits with 0 when nothing points at anybody, 1 when there is a suspect, 2 when the"
    " files cannot be used."
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@click.option("--html", metavar="PATH", help="Write a page with the merged stacks to PATH, too.")
@click.option("--deadlines", is_flag=True, help="Suggest deadlines from the durations seen.")
@click.option("--run-id", metavar="ID", help="Which run, when the files hold several.")
@click.option(
    "--world-size",
    type=click.IntRange(min=1),
    help="How many ranks the job has; ranks of which nothing was seen are then named.",
)
@click.option("--all", "every", is_flag=True, help="Report each hang of the run, not the last.")
def report(
    *,
    files: tuple[str, ...],
    as_json: bool,
    html: str | None,
    deadlines: bool,
    run_id: str | None,
    world_size: int | None,
    every: bool,
) -> None:
    """Say which worker held up a run that hung, and where it was stuck.

    FILE... are event files, as of 'timers run --events FILE', of one or of many hosts of one run:
    the culprit is often on another host than those that wait for it. '-' is standard input.
    """
    advice, ending = Advice(), Ending()
    take = advice.take if deadlines else ending.take
    try:
        with EventFiles(files, () if deadlines else WANTED, run_id, take) as found:
            if found.skipped:
                click.echo(
                    f"note: skipped {found.skipped} lines that are no events, the first is "
                    f"{found.first_skipped}",
                    err=True,
                )
            if advice.left_out:
                click.echo(f"note: {advice.left_out} uses of further scopes are left out", err=True)
            if deadlines:
                status = _print_deadlines(advice.scopes(), as_json=as_json)
            else:
                hangs = incidents(found.events(), world_size=world_size)
                shown = list(hangs) if every else _last(hangs)
                status = _print_hangs(found.run_id, shown, html, ending, as_json=as_json)
    except UnusableError as error:
        click.echo(f"Error: {error}", err=True)
        status = UNUSABLE
    sys.exit(status)


def _last(hangs: Iterable[Incident]) -> list[Incident]:
    last: list[Incident] = []
    count = 0
    for count, hang in enumerate(hangs, 1):  # noqa: B007  # how many there were
        last = [hang]
    if count > 1:
        click.echo(f"note: {count - 1} earlier hangs are left out; see --all", err=True)
    return last


def _print_hangs(
    run_id: str, hangs: Sequence[Incident], html: str | None, ending: Ending, *, as_json: bool
) -> int:
    if html is not None:
        write(html, page(run_id, hangs))
    if as_json:
        click.echo(json.dumps({"run_id": run_id, "hangs": [_plain(hang) for hang in hangs]}))
    elif not hangs:
        click.echo("\n".join(filter(None, ("No timer expired.", ending.render()))))
    else:
        texts = [f"{hang.started}\n{render(hang.report, width=width())}" for hang in hangs]
        click.echo("\n\n".join(texts))
    return SUSPECT if any(hang.report.suspects for hang in hangs) else NOBODY


def _plain(hang: Incident) -> dict[str, Any]:
    return {
        "started": hang.started,
        "scopes": list(hang.scopes),
        "host_names": list(hang.hosts),
        **hang.report.to_dict(),
    }


def _print_deadlines(advice: Sequence[ScopeAdvice], *, as_json: bool) -> int:
    if not advice:
        raise UnusableError(
            "no durations in the files: write events with '--include \"timer released\"', or let "
            "the server end by itself so that it writes its summary"
        )
    if as_json:
        click.echo(json.dumps({"deadlines": [each.to_dict() for each in advice]}))
    else:
        click.echo(render_advice(advice))
    return NOBODY


def width() -> int:
    """Return how many characters a line of a report may have."""
    # Not of a pipe: what reads it may be wider than any terminal.
    if not sys.stdout.isatty():
        return 160
    return max(80, os.get_terminal_size(sys.stdout.fileno()).columns)


def write(path: str, text: str) -> None:
    """Write a page.

    :raises UnusableError: it cannot be written there.
    """
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UnusableError(f"cannot write {path}: {error.strerror or error}") from error
