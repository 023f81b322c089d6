"""From the samples of a run's workers to a report: who is the odd one out, and where it is stuck.

:func:`analyse` is pure: it reads neither the clock nor the file system, and gives the same report
for the same input.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from observability.samples.frames import frame_line, plain_file, plain_function
from observability.samples.threads import is_idle
from observability.samples.types import Pace
from observability.samples.worker import read

from ._words import place, state
from .text import sentence, worker_name
from .types import Group, HangReport, Node, Suspect, Verdict
from .verdict.case import Case, Decision
from .verdict.decide import decide

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from observability.samples.reading import Key, Reading
    from observability.samples.types import WorkerView
    from timers.stacks.take import Frame

    from .verdict.collectives import Collectives

__all__ = ["analyse"]

_MOST_NODES = 400
_MOST_DEPTH = 60


def analyse(views: Iterable[WorkerView], *, world_size: int | None = None) -> HangReport:
    """Find out which worker holds up the others.

    :param views: all workers of one run that are known, of one or of many hosts. Of a rank that
        is there several times, as after a restart, the one that is not gone counts.
    :param world_size: how many ranks the run has, where known.
    """
    newest = _newest(views)
    # Nobody waits for who has no work, and in a pool most may have none.
    at_work = [view for view in newest if not is_idle(view)] or newest
    cases = _cases(at_work)
    decision, found = decide(cases, world_size=world_size)
    accused = {case.index for case in decision.suspects}
    # Who finished well is no part of the hang, unless the others wait for it.
    shown = [
        case
        for case in cases
        if case.view.gone is None or case.view.unclean or case.index in accused
    ]
    seen = {case.view.worker.rank for case in cases}

    def described(some: Iterable[Case]) -> tuple[Suspect, ...]:
        return tuple(_suspect(case, decision, found, cases) for case in some)

    report = HangReport(
        verdict=decision.verdict,
        confidence=decision.confidence,
        reason=decision.reason,
        evidence=tuple(each.value for each in decision.evidence),
        suspects=described(decision.suspects),
        lagging=described(decision.lagging),
        expired=described(case for case in shown if case.view.expired),
        groups=_groups(shown, accused, found.waiting_in),
        tree=_tree(shown, accused),
        workers=len(shown),
        hosts=len({case.view.host for case in shown}),
        missing_ranks=tuple(rank for rank in range(world_size or 0) if rank not in seen),
    )
    return replace(report, sentence=sentence(report))


def _cases(views: Sequence[WorkerView]) -> list[Case]:
    """Read each place once: what hosts have handed over shares what is the same."""
    known: dict[tuple[object, ...], Reading] = {}
    cases = []
    for index, view in enumerate(views):
        # All that reading takes from it. What is large is told apart by being the same object.
        key = (
            id(view.samples),
            view.gone,
            view.scope_id,
            view.thread,
            view.pace,
            id(view.surroundings),
            id(view.descendants),
        )
        reading = known.get(key)
        if reading is None:
            reading = known[key] = read(view)
        cases.append(Case(view, reading, index))
    return cases


def _newest(views: Iterable[WorkerView]) -> list[WorkerView]:
    chosen: dict[object, WorkerView] = {}
    for view in views:
        rank = view.worker.rank
        key = (view.host, view.worker.pid) if rank is None else rank
        other = chosen.get(key)
        # Two live processes of one rank (a parent and its child) are both kept.
        if other is not None and other.gone is None and view.gone is None:
            key = (view.host, view.worker.pid)
        elif other is not None and other.gone is None:
            continue
        chosen[key] = view
    return sorted(chosen.values(), key=_order)


def _order(view: WorkerView) -> tuple[bool, int, str, str]:
    rank = view.worker.rank
    return (rank is None, rank or 0, view.host, f"{view.worker.pid:>12}")


# -- suspects ------------------------------------------------------------------------------------


def _suspect(case: Case, decision: Decision, found: Collectives, cases: Sequence[Case]) -> Suspect:
    view, reading = case.view, case.reading
    diverged = decision.verdict is Verdict.DIFFERENT_COLLECTIVES
    inner = reading.child_reading or reading
    frame = reading.frame
    return Suspect(
        pid=view.worker.pid,
        host=view.host,
        rank=view.worker.rank,
        local_rank=view.worker.local_rank,
        name=view.worker.name or "",
        scope_id=view.scope_id,
        frame=frame,
        why=f"is {place(case, found.waiting_in)}" if diverged else state(case, found, cases),
        holds_up=decision.holds_up.get(case.index, ""),
        pace=inner.pace,
        child_pid=reading.child.pid if reading.child else None,
        also=tuple(line for line in dict.fromkeys(reading.also) if line != frame),
    )


# -- groups --------------------------------------------------------------------------------------


def _groups(
    cases: Sequence[Case], accused: set[int], waiting_in: Mapping[int, str]
) -> tuple[Group, ...]:
    places: dict[tuple[bool, str, Key, Key | None], list[Case]] = {}
    for case in cases:
        child = case.reading.child_reading
        what = place(case, waiting_in)
        key = (case.index in accused, what, case.reading.key, None if child is None else child.key)
        places.setdefault(key, []).append(case)
    groups = [_group(found, suspected, what) for (suspected, what, *_), found in places.items()]
    return tuple(sorted(groups, key=lambda group: (-group.size, not group.suspected)))


def _group(cases: Sequence[Case], suspected: bool, what: str) -> Group:
    reading = cases[0].reading
    child = reading.child_reading
    shown = child if child is not None and child.frames else reading
    paces = {case.reading.pace for case in cases}
    names = [
        worker_name(case.view.worker.rank, case.view.worker.pid, case.view.host) for case in cases
    ]
    ranks = [case.view.worker.rank for case in cases]
    return Group(
        what=what,
        frame=reading.frame,
        frames=tuple(frame_line(frame) for frame in shown.frames),
        workers=tuple(names),
        ranks=tuple(rank for rank in ranks if rank is not None),
        suspected=suspected,
        pace=_agreed(paces, suspected=suspected),
    )


def _agreed(paces: set[Pace], *, suspected: bool) -> Pace:
    pace = paces.pop() if len(paces) == 1 else Pace.UNKNOWN
    return Pace.WAITING if pace is Pace.STUCK and not suspected else pace


# -- all stacks ----------------------------------------------------------------------------------


def _tree(cases: Sequence[Case], accused: set[int]) -> tuple[Node, ...]:
    # Thousands share a reading; to compare what it has read takes longer than to count.
    readings = {id(case.reading): case.reading for case in cases}
    counts = Counter(id(case.reading) for case in cases)
    marked = Counter(id(case.reading) for case in cases if case.index in accused)
    stacks: dict[tuple[Frame, ...], list[int]] = {}
    for which, reading in readings.items():
        stacks.setdefault(reading.frames, []).append(which)
    return _merged(
        (frames, sum(counts[each] for each in alike), sum(marked[each] for each in alike))
        for frames, alike in stacks.items()
        if frames
    )


@dataclass(slots=True)
class _Growing:
    frame: str
    count: int = 0
    suspects: int = 0
    children: dict[tuple[object, ...], _Growing] = field(default_factory=dict)


def _merged(stacks: Iterable[tuple[tuple[Frame, ...], int, int]]) -> tuple[Node, ...]:
    """Merge ``stacks``: each its frames (innermost first), how many workers, how many suspects.

    Of a stack deeper than 60 calls the innermost are kept. The tree has at most 400 nodes, those
    of suspects and those with most workers first.
    """
    root = _Growing("")
    for frames, count, suspects in stacks:
        node = root
        for frame in reversed(frames[:_MOST_DEPTH]):
            key = (plain_file(frame.file), plain_function(frame.function), frame.line)
            below = node.children.get(key)
            if below is None:
                below = node.children[key] = _Growing(frame_line(frame))
            below.count += count
            below.suspects += suspects
            node = below
    return _frozen(root, [_MOST_NODES])


def _frozen(node: _Growing, budget: list[int]) -> tuple[Node, ...]:
    below = sorted(node.children.values(), key=lambda each: (-each.suspects, -each.count))
    kept = []
    for each in below:
        if budget[0] <= 0:
            break
        budget[0] -= 1
        kept.append(Node(each.frame, each.count, each.suspects, _frozen(each, budget)))
    return tuple(sorted(kept, key=lambda each: -each.count))
