"""Event files of a job that hangs, as the servers of several hosts write them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from observability.fields import to_fields
from observability.hang.json import extra_fields
from timers.events import Event, StackDumped, TimerExpired, TimerInfo, TimerReleased, WorkerExited
from timers.stacks.dump import StackDump

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from observability.samples.types import WorkerView

__all__ = ["exited", "hang", "released", "write"]

BEGIN = 1_700_000_000.0


def hang(views: Iterable[WorkerView], *, run_id: str = "job-7", at: float = BEGIN) -> list[Any]:
    """The lines that one host writes when the timers of its workers expire."""
    lines: list[dict[str, Any]] = []
    for view in views:
        timer = TimerInfo(
            scope_id=view.scope_id or "step", expiration_time=at, after_seconds=60.0, signal=9
        )
        common: dict[str, Any] = {"worker": view.worker, "timer": timer, "elapsed_seconds": 60.0}
        dump = view.dump
        assert isinstance(dump, StackDump)
        events: list[tuple[Event, dict[str, Any]]] = [
            (TimerExpired(timestamp=at, run_id=run_id, lateness_seconds=0.01, **common), {}),
            (
                StackDumped(timestamp=at + 0.1, run_id=run_id, dump=dump, **common),
                extra_fields(view),
            ),
        ]
        lines += [to_fields(event, host=view.host) | extra for event, extra in events]
    return lines


def exited(
    view: WorkerView, *, at: float, inside: str | None = None, since: float = 1.0
) -> dict[str, Any]:
    """The line for a worker that ended by itself.

    :param since: for how many seconds it had been inside.
    """
    timer = TimerInfo(scope_id=inside or "", expiration_time=at, after_seconds=60.0, signal=9)
    timers = ((timer, since),) if inside else ()
    event = WorkerExited(timestamp=at, run_id="job-7", worker=view.worker, timers=timers)
    return to_fields(event, host=view.host)


def released(
    view: WorkerView,
    scope: str,
    seconds: float,
    *,
    after: float = 60.0,
    error: str | None = None,
    at: float = BEGIN,
) -> dict[str, Any]:
    """The line for a block that ended in time."""
    event = TimerReleased(
        timestamp=at,
        run_id="job-7",
        worker=view.worker,
        timer=TimerInfo(scope_id=scope, expiration_time=0.0, after_seconds=after, signal=9),
        elapsed_seconds=seconds,
        error=error,
    )
    return to_fields(event, host=view.host)


def write(path: Path, lines: Iterable[dict[str, Any]]) -> str:
    """Write an event file; returns its path as an argument."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)
