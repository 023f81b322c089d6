"""From the events of a run to its hangs: which stacks belong together, and what they show."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from observability.hang.json import view_from
from observability.hang.report import analyse
from observability.samples.types import WorkerView
from observability.untrusted import items, number, printable
from timers.events import WorkerInfo

from ._files import seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from observability.hang.types import HangReport

__all__ = ["WANTED", "Incident", "incidents"]

APART_SECONDS = 300.0
"""Stacks further apart than this belong to different hangs. Deadlines of one hang differ by less:
the ranks entered their scopes for the same operation."""
MAX_EXITS = 20_000
"""Workers that ended and may belong to the next hang: more than a run has at a time."""
_SLACK_SECONDS = 2.0
"""By how much the clocks of hosts that keep the same time may differ."""

_Worker = tuple[str, object]


@dataclass(frozen=True, slots=True)
class Incident:
    """One hang."""

    started: str
    """Timestamp of its first event."""
    scopes: tuple[str, ...]
    """The scopes that expired."""
    hosts: tuple[str, ...]
    report: HangReport


@dataclass(slots=True)
class _Collecting:
    started: str
    began: float
    last: float
    views: dict[_Worker, WorkerView] = field(default_factory=dict)
    ranks: dict[int, _Worker] = field(default_factory=dict)
    expired: dict[_Worker, str] = field(default_factory=dict)
    scopes: dict[str, None] = field(default_factory=dict)
    sizes: set[int] = field(default_factory=set)
    """Of the job, as its workers were given it."""
    longest: float = 0.0
    """Seconds for which the timers ran that expired, at most."""


@dataclass(frozen=True, slots=True)
class _Exit:
    at: float
    view: WorkerView
    """Of one that had ended before the hang."""
    open: tuple[tuple[str, float], ...]
    """The scopes it was in, the innermost first, each with the seconds since it was entered."""


WANTED = frozenset({"stack dumped", "timer expired", "worker exited"})
"""Names of the events that hangs are made from."""


def incidents(
    events: Iterable[dict[str, Any]], *, world_size: int | None = None
) -> Iterator[Incident]:
    """Find the hangs of one run, in the order of their time; no more than one is held.

    :param events: of one run, in the order of their time.
    :param world_size: how many ranks the run has; by default what its events say.
    """
    current: _Collecting | None = None
    exits: dict[_Worker, _Exit] = {}
    for event in events:
        if event["event"] == "worker exited":
            ended = _exit(event)
            exits.setdefault((ended.view.host, ended.view.worker.pid), ended)
            if len(exits) > MAX_EXITS:
                del exits[next(iter(exits))]
        elif event["event"] in WANTED:
            after = _collect(current, event)
            if current is not None and after is not current:
                yield from _closed(current, exits, world_size)
            current = after
    if current is not None:
        yield from _closed(current, exits, world_size)


def _collect(current: _Collecting | None, event: dict[str, Any]) -> _Collecting:
    """Add an event to the hang that it belongs to; return that, which may be a new one."""
    view = view_from(event)
    worker = (view.host, view.worker.pid)
    at = seconds(event)
    if at is None:
        at = current.last if current else 0.0
    if current is None or _is_new(current, view, worker, at):
        current = _Collecting(printable(str(event.get("timestamp", ""))), at, at)
    current.last = max(current.last, at)
    size = number(event.get("world_size"))
    if size is not None and size.is_integer() and size > 0:
        current.sizes.add(int(size))
    if view.worker.rank is not None:
        current.ranks[view.worker.rank] = worker
    if event["event"] == "timer expired":
        scope = view.scope_id or ""
        current.expired.setdefault(worker, scope)
        current.scopes.setdefault(scope)
        current.longest = max(current.longest, view.after_seconds or 0.0)
    elif worker not in current.views:  # A later one was taken when a kill had to be retried.
        current.views[worker] = view
    return current


def _is_new(current: _Collecting, view: WorkerView, worker: _Worker, at: float) -> bool:
    if at - current.last > APART_SECONDS:
        return True
    rank = view.worker.rank
    # A rank that is another process than before was restarted, after a hang that is over.
    return rank is not None and current.ranks.get(rank, worker) != worker


def _exit(event: dict[str, Any]) -> _Exit:
    view = view_from(event)
    inside = event.get("timers_open")
    unclean = isinstance(inside, int) and inside > 0
    how = f"ended inside of scope {view.scope_id}" if unclean and view.scope_id else "ended"
    entries = items(event.get("timers"), dict)
    known = ((each.get("scope_id"), number(each.get("elapsed_seconds"))) for each in entries)
    scopes = [(scope, age) for scope, age in known if isinstance(scope, str) and age is not None]
    if not scopes and unclean and view.scope_id and view.elapsed_seconds is not None:
        scopes = [(view.scope_id, view.elapsed_seconds)]
    gone = WorkerView(
        worker=WorkerInfo(
            pid=view.worker.pid, rank=view.worker.rank, local_rank=view.worker.local_rank
        ),
        host=view.host,
        gone=how,
        unclean=unclean,
        scope_id=view.scope_id if unclean else None,
    )
    return _Exit(seconds(event) or 0.0, gone, tuple(scopes))


def _closed(
    incident: _Collecting,
    exits: dict[_Worker, _Exit],
    world_size: int | None,
) -> Iterator[Incident]:
    """Report on a hang. Who ended before it was noticed belongs to it, and to no later one."""
    before = {worker: each for worker, each in exits.items() if each.at <= incident.began}
    for worker in before:
        del exits[worker]
    others = [each.view for each in before.values() if _may_be_missed(each, incident)]
    others += filter(None, (_unseen(each, incident) for each in exits.values()))
    others = [
        view
        for view in others
        if (view.host, view.worker.pid) not in incident.views
        and (view.worker.rank is None or view.worker.rank not in incident.ranks)
    ]
    if world_size is None and len(incident.sizes) == 1:
        [size] = incident.sizes
        world_size = size if size > max(incident.ranks, default=-1) else None
    if incident.views:
        views = [*incident.views.values(), *others]
        yield Incident(
            started=incident.started,
            scopes=tuple(scope for scope in incident.scopes if scope),
            hosts=tuple(sorted({view.host for view in views if view.host})),
            report=analyse(views, world_size=world_size),
        )


def _may_be_missed(ended: _Exit, incident: _Collecting) -> bool:
    """Whether those who hang may wait for one that had ended.

    On another host, whose clock may be a day off, only when that was about when they began to wait.
    """
    if any(host == ended.view.host for host, _ in (*incident.views, *incident.expired)):
        return True
    return ended.at >= incident.began - incident.longest - APART_SECONDS


def _unseen(ended: _Exit, incident: _Collecting) -> WorkerView | None:
    """Return a view of one that was there, in a scope, and ended before its stack was taken."""
    if not incident.began < ended.at <= incident.last + APART_SECONDS:
        return None
    before = incident.began + _SLACK_SECONDS
    scope = next((scope for scope, age in ended.open if ended.at - age <= before), None)
    if scope is None:
        return None
    return replace(ended.view, gone=None, unclean=False, scope_id=scope)
