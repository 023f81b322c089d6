"""``timers explain``: what a running job does, and who holds it up."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING

import click

from observability.duration import Seconds
from observability.hang.text import rank_ranges
from observability.report.command import NOBODY, SUSPECT, UNUSABLE, UnusableError, width, write
from observability.untrusted import printable, this_host
from timers.linux import procfs

from ._find import FoundJob, find_jobs, run_id_of
from .permission import tracing_advice, why_unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .job import Explained
    from .rates import Rate

__all__ = ["explain"]


@click.command(
    epilog="Exits with 0 when nothing points at anybody, 1 when there is a suspect, 2 when there is"
    " no job or it may not be read."
)
@click.argument("pids", nargs=-1, type=click.IntRange(min=1), metavar="[PID]...")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Write JSON lines, which 'timers report' merges over hosts.",
)
@click.option("--html", metavar="PATH", help="Write a page with the merged stacks to PATH, too.")
@click.option("--watch", is_flag=True, help="Repeat until Ctrl-C or the end of the job.")
@click.option(
    "--interval",
    type=Seconds(least=0.1),
    default=5.0,
    show_default=True,
    help="How long to wait between two reports of --watch.",
)
@click.option(
    "--timeout",
    type=Seconds(least=0.5, most=600),
    default=5.0,
    show_default=True,
    help="Bound on one report. Most take half a second.",
)
@click.option("--native", is_flag=True, help="Show C frames, too; pauses the processes briefly.")
def explain(
    *,
    pids: tuple[int, ...],
    as_json: bool,
    html: str | None,
    watch: bool,
    interval: float,
    timeout: float,
    native: bool,
) -> None:
    """Say what a running job does, and which of its workers holds up the others.

    PID is its launcher or any of its workers; without one it is the job that 'timers run', torchrun
    or another launcher started on this host. The job needs no preparation, and nothing in it is
    changed or stopped.
    """
    status = UNUSABLE
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            roots = _checked(pids) if pids else _only_job()
            if not roots:
                break
            status = _explain_once(
                roots, as_json=as_json, html=html, timeout=timeout, native=native
            )
            if not watch:
                break
            time.sleep(interval)
            if pids and not any(os.path.exists(f"/proc/{pid}") for pid in pids):
                break
            if not as_json:
                click.echo()
    sys.exit(status)


def _explain_once(
    roots: Sequence[int], *, as_json: bool, html: str | None, timeout: float, native: bool
) -> int:
    from . import _output  # noqa: PLC0415  # --help should be quick

    host = this_host()
    at = time.time()
    explained, rates = _measured(roots, timeout=timeout, host=host, native=native)
    if not any(view.samples for view in explained.views):
        click.echo("Error: every process of the job has ended", err=True)
        return UNUSABLE
    pids = [view.pid for view in explained.views]
    run_id = next(filter(None, (run_id_of(procfs.environment(pid)) for pid in pids)), "")
    if as_json:
        for line in _output.event_lines(explained, run_id=run_id, host=host):
            click.echo(line)
    else:
        click.echo(_output.text(explained, rates, width=width()))
    if html is not None:
        try:
            write(html, _output.html(explained, run_id=run_id, host=host, at=at))
        except UnusableError as error:
            click.echo(f"Error: {error}", err=True)
            return UNUSABLE
    if _output.unread(explained.views):
        click.echo(f"note: for more, {tracing_advice()}", err=True)
        if not any(view.dump and view.dump.threads for view in explained.views):
            return UNUSABLE
    return SUSPECT if _output.accuses(explained) else NOBODY


def _measured(
    roots: Sequence[int], *, timeout: float, host: str, native: bool
) -> tuple[Explained, dict[int, Rate]]:
    from .job import descendants, explain_tree  # noqa: PLC0415  # as above
    from .rates import count, rates  # noqa: PLC0415  # as above

    before = count(descendants(roots))
    explained = explain_tree(roots, timeout=timeout, host=host, native=native)
    after = count(view.pid for view in explained.views)
    return explained, rates(before, after)


def _checked(pids: Sequence[int]) -> list[int]:
    """Return those that may be explained; of the others it is said why not."""
    usable = []
    for pid in pids:
        problem = why_unreadable(pid)
        if problem is None:
            usable.append(pid)
        else:
            click.echo(f"Error: {problem}", err=True)
    return usable


def _only_job() -> list[int]:
    """Return where the one job of this host begins; none when there are several, which it lists."""
    jobs = find_jobs()
    if len(jobs) == 1:
        return jobs[0].roots
    if not jobs:
        whose = "" if os.geteuid() == 0 else " of this user"
        click.echo(
            f"Error: no job{whose} was found here: nothing that 'timers run' started, and nothing"
            " that a launcher gave a rank. Name a process: timers explain PID",
            err=True,
        )
    else:
        click.echo(f"Error: {len(jobs)} jobs run here; name one by its PID:", err=True)
        for job in jobs:
            click.echo(_line(job), err=True)
    return []


def _line(job: FoundJob) -> str:
    words = [f"  {job.roots[0]:>8}"]
    if job.run_id:
        words.append(f"run {job.run_id}")
    if job.ranks:
        words.append(f"rank{'s' if len(job.ranks) > 1 else ''} {rank_ranges(job.ranks)}")
    return printable("  ".join([*words, job.command]))
