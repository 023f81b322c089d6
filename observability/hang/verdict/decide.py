"""The verdict: where the chains of waits end, and by which evidence.

In this order; the first that says something decides:

1. what the kernel says of a process that cannot go on (:func:`~._stacks.broken`);
2. ranks that called different collectives under one number, by the recorder;
3. the ends of the wait-for graph, made of the recorder's and the kernel's edges;
4. what the stacks make likely (:func:`~._stacks.by_stacks`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from observability.hang.graph import Evidence, Strength, ends_of
from observability.hang.text import listed, rank_ranges
from observability.hang.types import Confidence, Verdict
from observability.samples.types import Pace
from observability.samples.waits import Peers, Wait

from ._stacks import broken, by_stacks, left_early
from .case import (
    Case,
    Decision,
    Run,
    accusing,
    proven,
    slow,
    sort,
    split,
    undecided,
)
from .collectives import Collectives, Member, analyse_recordings
from .links import link_edges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from observability.hang.graph import End

    from .collectives import Divergence

__all__ = ["decide"]

_NOT_IN_AN_OPERATION = frozenset(
    {Wait.NETWORK, Wait.STORAGE, Wait.CHILD, Wait.PIPE, Wait.THREAD, Wait.SIGNAL}
)
"""Waits of a thread that may have operations under way, but does not wait for them here."""


def decide(cases: Sequence[Case], *, world_size: int | None = None) -> tuple[Decision, Collectives]:
    """Decide who holds up the others.

    :param cases: one for each worker; a rank that was restarted only once.
    :param world_size: how many ranks the run has, where known.
    """
    run = sort(cases, world_size)
    found = analyse_recordings([_member(case) for case in cases], world_size=world_size)
    edges = [*found.edges, *link_edges(cases)]
    decision = (
        broken(run)
        or _diverged(run, found.divergence)
        or _by_ends(run, ends_of(edges), found)
        or left_early(run)
        or by_stacks(run)
    )
    return decision, found


def _member(case: Case) -> Member:
    reading = case.reading
    wait = reading.reason.wait
    sleeps = wait is Wait.SLEEP and reading.pace is not Pace.REPEATING
    elsewhere = wait in _NOT_IN_AN_OPERATION or sleeps or reading.pace is Pace.SLOW
    return Member(
        rank=case.view.worker.rank,
        recording=case.view.recording,
        may_wait=not elsewhere,
        joined=reading.reason.peers is Peers.CERTAIN,
        ended=case.view.gone is not None,
    )


def _diverged(run: Run, divergence: Divergence | None) -> Decision | None:
    """Decide who called something else: few against many, else nobody is named."""
    if divergence is None:
        return None
    (most_call, most), *others = divergence.calls
    odd = tuple(index for _, callers in others for index in callers)
    few = len(odd) * 3 <= len(most) + len(odd)
    told = [f"{_ranks(run, most)} called {most_call}"]
    told += [f"{_ranks(run, callers)} called {call}" for call, callers in others]
    suspects = tuple(run.cases[index] for index in odd) if few else ()
    return Decision(
        Verdict.DIFFERENT_COLLECTIVES,
        Confidence.HIGH if few and len(most) > 2 else Confidence.MEDIUM,  # noqa: PLR2004  # of four
        listed(told),
        suspects,
        waiting=tuple(case for case in run.cases if case.index not in odd or not few),
        evidence=(Evidence.RECORDER,),
        holds_up={
            index: f"called {call} where {_ranks(run, most)} called {most_call}"
            for call, callers in others
            for index in callers
        },
    )


def _by_ends(run: Run, all_ends: Sequence[End], found: Collectives) -> Decision | None:
    ends = [end for end in all_ends if end.waiting or end.is_cycle]
    if not ends:
        return None
    surest = max(end.strength for end in ends)
    ends = [end for end in ends if end.strength is surest]
    missed: dict[int, list[str]] = {}
    for edge in (edge for end in ends for edge in end.edges):
        if edge.why and isinstance(edge.target, int):
            missed.setdefault(edge.target, []).append(edge.why)
    holds_up = {index: listed(sorted(set(whys)), 3) for index, whys in missed.items()}
    edges = sorted((e for end in ends for e in end.edges), key=lambda edge: -edge.strength)
    evidence = tuple(dict.fromkeys(edge.evidence for edge in edges))
    waiting = tuple(run.cases[index] for end in ends for index in end.waiting)
    circles = [end for end in ends if end.is_cycle]
    single = [run.cases[end.workers[0]] for end in ends if len(end.workers) == 1]
    if circles and not single:
        decision = _circle(run, circles)
    elif single:
        decision = _held_up_by(tuple(single), surest)
    else:
        decision = _nobody(run, ends, found)
    return replace(decision, evidence=evidence, holds_up=holds_up, waiting=waiting)


def _circle(run: Run, circles: Sequence[End]) -> Decision:
    members = tuple(run.cases[index] for end in circles for index in end.workers)
    sure = all(end.strength is Strength.PROOF for end in circles)
    steps = [
        f"{_ranks(run, [edge.target])} {edge.why}"
        for end in circles
        for edge in end.edges
        if edge.why
        and isinstance(edge.target, int)
        and edge.source in (*end.workers, *end.meetings)
    ]
    return Decision(
        Verdict.CYCLE,
        Confidence.HIGH if sure else Confidence.LOW,
        f"{_ranks(run, [case.index for case in members])} wait for each other in a circle"
        + (f": {listed(sorted(steps), 4)}" if steps else ""),
        members,
    )


def _held_up_by(ends: tuple[Case, ...], strength: Strength) -> Decision:
    """Decide about the workers at which all chains end."""
    stuck, rest = split(ends)
    if not stuck:
        moving = tuple(case for case in rest if case.reading.moves)
        return slow(moving, ()) if moving else undecided(rest, ())
    sure = strength is Strength.PROOF and all(proven(case) for case in stuck)
    doubt = any(case.reading.reason.peers >= Peers.BY_LIBRARY for case in stuck)
    confidence = Confidence.LOW
    if strength is not Strength.GUESS:
        confidence = Confidence.HIGH if sure and not doubt else Confidence.MEDIUM
    return Decision(
        accusing(stuck),
        confidence,
        "the others wait for it, directly or through each other",
        stuck,
        rest,
    )


def _nobody(run: Run, ends: Sequence[End], found: Collectives) -> Decision:
    """All have joined, or those who have not are not known here."""
    names = listed([meeting.name for end in ends for meeting in end.meetings], 2)
    if found.unknown:
        reason = (
            f"of {names}: {rank_ranges(found.unknown)} are not known here, and all others "
            "have joined it"
        )
        return Decision(Verdict.COMMON_WAIT, Confidence.MEDIUM, reason)
    count = len({index for end in ends for index in end.waiting})
    return Decision(
        Verdict.COMMON_WAIT,
        Confidence.HIGH if count == len(run.alive) else Confidence.MEDIUM,
        f"all have joined {names} and none has completed it: what they wait for is the device or "
        "the network",
    )


def _ranks(run: Run, indices: Sequence[int]) -> str:
    workers = [run.cases[index].view.worker for index in indices]
    ranks = [worker.rank for worker in workers if worker.rank is not None]
    if len(ranks) < len(workers):
        return f"{len(workers)} workers"
    return f"rank{'' if len(ranks) == 1 else 's'} {rank_ranges(ranks)}"
