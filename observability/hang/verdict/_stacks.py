"""Who holds up the others, by what the stacks and the kernel say of each worker.

For what no recorder covers: without torch, or before its first collective.

The rules, in this order; the first that applies decides:

1. A worker that is stopped, has failed or is in an uninterruptible wait holds up the others,
   whatever the stacks say (:func:`broken`, which comes before everything else).
2. A run of one worker has nobody to compare with.
3. Some workers wait in an operation that ends when all have joined it, and others are elsewhere:
   those elsewhere hold them up.
4. All wait in such operations: the same one, or different ones.
5. No such operation is known: most are in one place and few are elsewhere.
6. All whose stacks are known wait, and one that ended before its stack was taken was in a scope
   that none of them is in.
7. Of those that are left, one is inside the same scope as the others but waits for nothing that
   another worker could give.

Nobody is accused who moves, who may be waiting for another one that is accused, or when as many
speak for it as against it. Workers that compute, and were sampled only once, may be slow.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from observability.hang.graph import Evidence
from observability.hang.types import Confidence, Verdict
from observability.samples.types import Pace
from observability.samples.waits import Peers, Wait

from .case import (
    Case,
    Decision,
    Run,
    accuse,
    accusing,
    may_wait_for_others,
    mostly_moving,
    odd_ones,
    peers_of,
    possible_peers,
    proven,
    slow,
    split,
    together,
    undecided,
    waits_for_nobody,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

# -- rule 1 --------------------------------------------------------------------------------------


def broken(run: Run) -> Decision | None:
    """Decide by what the kernel says: who is stopped, failed, or in an uninterruptible wait."""
    present = len(run.cases) - len(run.gone)
    if present and len(run.halted) == present and present > 1:
        return Decision(
            Verdict.COMMON_WAIT,
            Confidence.HIGH,
            "every worker is stopped, as a job is that was suspended as a whole",
            waiting=run.halted,
            evidence=(Evidence.KERNEL,),
        )
    if len(run.deep) > 1 and len(run.deep) * 2 > present:
        return Decision(
            Verdict.COMMON_WAIT,
            Confidence.HIGH,
            "most workers are in an uninterruptible wait, which is one for storage or a device",
            waiting=run.deep,
            evidence=(Evidence.KERNEL,),
        )
    suspects = run.halted + run.deep + tuple(case for case in run.gone if case.view.unclean)
    if not suspects:
        return None
    sure = all(case.reading.pace is Pace.STUCK for case in run.deep)
    return Decision(
        accusing(suspects),
        Confidence.HIGH if sure else Confidence.MEDIUM,
        "what the kernel says of a process is no guess"
        if sure
        else "the state D was seen at one sample only",
        suspects,
        waiting=possible_peers(run.alive),
        evidence=(Evidence.KERNEL,),
    )


def left_early(run: Run) -> Decision | None:
    """Decide who ended without a failure although the others wait for it."""
    gone = tuple(case for case in run.gone if _missed(case, run))
    if not gone:
        return None
    return Decision(
        accusing(gone),
        Confidence.MEDIUM,
        "it ended without a failure, but the others wait for it",
        gone,
        waiting=possible_peers(run.alive),
    )


def _missed(case: Case, run: Run) -> bool:
    """Whether the others can be waiting for one that has ended."""
    if case.view.unclean:
        return False
    clean = sum(not each.view.unclean for each in run.gone)
    if not run.alive or clean > max(1, len(run.cases) // 2):
        return False  # When most have finished, it is those who did not that differ.
    if any(not each.reading.reason.wait.may_be_for_peers for each in run.alive):
        return False
    certain = any(peers_of(each) >= Peers.BY_NAME for each in run.alive)
    return certain or all(each.view.worker.rank is not None for each in run.cases)


# -- rule 2 --------------------------------------------------------------------------------------


def _alone(run: Run) -> Decision | None:
    if not run.alive:
        return _sightless(run)
    if len(run.alive) > 1 or run.blind:
        return None
    [case] = run.alive
    if case.reading.moves:
        return slow(run.alive, ())
    if case.reading.reason.wait.may_be_for_peers and case.reading.child is None:
        return Decision(
            Verdict.COMMON_WAIT,
            Confidence.LOW,
            "no other worker is known here that it could be compared with",
            waiting=run.alive,
        )
    if case.reading.undecided:
        return undecided(run.alive, ())
    return Decision(
        Verdict.ONE_SUSPECT,
        Confidence.MEDIUM,
        "no other worker is known here, and what it does needs none",
        run.alive,
    )


def _sightless(run: Run) -> Decision:
    errors = [case.reading.error for case in run.blind if case.reading.error]
    why = f": {errors[0].splitlines()[0]}" if errors else ""
    return Decision(
        Verdict.INCONCLUSIVE, Confidence.LOW, f"no stack could be read{why}", waiting=run.blind
    )


# -- rule 3 --------------------------------------------------------------------------------------


def _held_up(run: Run) -> Decision | None:
    level = max((peers_of(case) for case in run.alive), default=Peers.NO)
    if level is Peers.NO:
        return None
    peers = tuple(case for case in run.alive if peers_of(case) is level)
    others = tuple(case for case in run.alive if peers_of(case) < level)
    if others and all(peers_of(case) >= Peers.BY_LIBRARY for case in others):
        return None  # Theirs may be such an operation, too, which is for the next rule.
    if level is Peers.BY_SCOPE:
        # A name that somebody gave to a timer: only against those who wait for nothing of others.
        others = tuple(case for case in others if not case.reading.reason.wait.may_be_for_peers)
    if level is Peers.BY_LIBRARY:
        # Perhaps those are stuck by themselves: only the deadlines tell who began, or that the
        # others wait for nobody.
        began = not any(case.view.expired for case in peers)
        # Who is past its deadline in something that no other worker can end is stuck in any case.
        others = tuple(
            case
            for case in others
            if (case.view.expired if began else waits_for_nobody(case) or _late_by_itself(case))
        )
    if not others:
        return None
    stuck, lagging = split(others)
    if len(others) * 2 > len(run.alive):
        return _most_elsewhere(run, stuck, lagging)
    return accuse(stuck, lagging, peers, certain=level is Peers.CERTAIN)


def _late_by_itself(case: Case) -> bool:
    return case.view.expired and not may_wait_for_others(case)


def _most_elsewhere(
    run: Run, stuck: tuple[Case, ...], lagging: tuple[Case, ...]
) -> Decision | None:
    """More workers are outside the operation than in it, so those outside are no exception."""
    if lagging and not stuck:
        moving = [case for case in lagging if case.reading.moves]
        return slow(tuple(moving), ()) if moving else undecided(lagging, ())
    if len({case.reading.family for case in stuck}) == 1 and len(stuck) > 1:
        return together(stuck, run, "most workers are in the same place")
    if lagging or not all(proven(case) for case in stuck):
        return None
    # One that may be waiting for another worker is not accused next to one that is not.
    suspects = tuple(case for case in stuck if not may_wait_for_others(case)) or stuck
    return Decision(
        accusing(suspects),
        Confidence.LOW,
        "at least one worker waits for all others, and they were at the same calls at every sample",
        suspects,
        waiting=possible_peers(run.alive),
    )


# -- rule 4 --------------------------------------------------------------------------------------


def _all_in_operations(run: Run) -> Decision | None:
    cases = run.alive
    level = min(peers_of(case) for case in cases)
    if level < Peers.BY_LIBRARY:
        return None
    if mostly_moving(cases):
        return slow(tuple(case for case in cases if case.reading.moves), ())
    operations = Counter(case.reading.reason.operation for case in cases)
    places = Counter(case.reading.family for case in cases)
    if len(operations) == 1:
        return together(
            cases,
            run,
            "all are in the same operation"
            if len(places) == 1
            else "all are in the same operation, though not called from the same place",
        )
    direct = any(case.reading.reason.wait is Wait.POINT_TO_POINT for case in cases)
    most, odd = odd_ones(cases, lambda case: case.reading.reason.operation)
    few = len(odd) * 3 <= len(cases) and len({case.reading.family for case in odd}) == 1
    certain = peers_of(most[0]) in (Peers.CERTAIN, Peers.BY_LIBRARY)
    if direct or not few or not run.complete or not certain:
        return Decision(
            Verdict.DIFFERENT_COLLECTIVES,
            Confidence.MEDIUM if level is Peers.CERTAIN else Confidence.LOW,
            "the ranks wait in different operations"
            + ("" if run.complete else ", and not every rank of the job is known here"),
            waiting=cases,
        )
    return Decision(
        Verdict.DIFFERENT_COLLECTIVES,
        Confidence.LOW if len(cases) < 4 or level < Peers.CERTAIN else Confidence.MEDIUM,  # noqa: PLR2004  # 3 to 1
        "it is in another operation than all others, unless they belong to different groups",
        odd,
        waiting=most,
    )


# -- rule 5 --------------------------------------------------------------------------------------


def _odd_one_out(run: Run) -> Decision | None:
    cases = run.alive
    most, odd = odd_ones(cases, _place)
    if not odd:
        if mostly_moving(cases):
            return slow(cases, ())
        return together(cases, run, "all are in the same place")
    second = max(Counter(_place(case) for case in odd).values())
    if len(most) < 2 or len(most) * 2 < len(cases) or second >= len(most):  # noqa: PLR2004  # a pair
        return None
    if mostly_moving(most):
        return None
    if most[0].reading.reason.wait.is_for_own_things:
        # Each waits for something of its own, not for the one that is elsewhere.
        return together(most, run, "most are in the same place") if _majority(most, run) else None
    return _against_most(run, most, odd)


def _place(case: Case) -> Hashable:
    """Where it is: who looks, and sleeps before it looks again, is all the time in one place."""
    reading = case.reading
    vague = reading.reason.wait in (Wait.ASKING, Wait.SLEEP, Wait.UNKNOWN)
    if vague and reading.frames and reading.child is None and not reading.holds_gil:
        return reading.family[2:]  # without what it waits for
    return reading.family


def _against_most(run: Run, most: tuple[Case, ...], odd: tuple[Case, ...]) -> Decision | None:
    candidates = [case for case in odd if peers_of(case) <= Peers.BY_SCOPE]
    stuck, lagging = split(candidates)
    if most[0].reading.reason.wait is Wait.COMPUTE or not _majority(most, run):
        # MPI and CUDA wait by spinning, but those who compute may also just be busy.
        stuck = tuple(case for case in stuck if not may_wait_for_others(case))
    if not stuck and not lagging:
        return None
    if lagging or not all(may_wait_for_others(case) for case in stuck):
        return accuse(stuck, lagging, most, certain=False)
    # Where ranks exchange data by hand, the first one usually collects from all others, and so is
    # elsewhere than they are without being to blame.
    # In a backward pass they do not.
    collecting = peers_of(most[0]) < Peers.BY_LIBRARY
    accusable = tuple(
        case for case in stuck if not collecting or case.view.worker.rank not in (None, 0)
    )
    if len(accusable) == 1:
        return accuse(accusable, (), most, certain=False)
    return Decision(
        Verdict.INCONCLUSIVE,
        Confidence.LOW,
        "it is elsewhere than most, but may itself be waiting for another worker",
        lagging=stuck,
        waiting=most,
    )


def _majority(most: Sequence[Case], run: Run) -> bool:
    return len(most) * 2 > len(run.alive)


# -- rule 6 --------------------------------------------------------------------------------------


def _in_another_scope(run: Run) -> Decision | None:
    unseen = tuple(case for case in run.blind if not case.view.samples and case.view.scope_id)
    waiting = tuple(case for case in run.alive if peers_of(case) >= Peers.BY_NAME)
    if not unseen or len(waiting) < len(run.alive) or len(unseen) > len(waiting):
        return None
    scopes = {case.view.scope_id for case in waiting}
    if any(case.view.scope_id in scopes for case in unseen):
        return None
    return Decision(
        accusing(unseen),
        Confidence.LOW,
        "the others wait for each other, and it was in a scope that none of them is in; its stack"
        " was never taken",
        unseen,
        waiting=waiting,
    )


# -- rule 7 --------------------------------------------------------------------------------------


def _same_scope(run: Run) -> Decision | None:
    cases = run.alive
    waiting = tuple(case for case in cases if may_wait_for_others(case))
    others = tuple(case for case in cases if not may_wait_for_others(case))
    if not waiting or not others or len(others) * 2 > len(cases):
        return None
    if len({case.view.scope_id for case in cases}) != 1 or cases[0].view.scope_id is None:
        return None
    if any(case.reading.moves for case in waiting):
        return None
    stuck, lagging = split(others)
    sure = all(proven(case) for case in stuck) or all(case.view.expired for case in cases)
    if len(cases) == 2 and not sure:  # noqa: PLR2004  # one against one
        return None  # One sample of each: a wait and a pause are no evidence against either.
    return accuse(stuck, lagging, waiting, certain=False)


def _only_one_expired(run: Run) -> Decision | None:
    """One worker is stuck in its scope while all others are at work outside of theirs."""
    expired = tuple(case for case in run.alive if case.view.expired)
    others = tuple(case for case in run.alive if not case.view.expired)
    if len(expired) != 1 or not others:
        return None
    [case] = expired
    if peers_of(case) or not all(each.reading.moves for each in others):
        return None
    if case.reading.moves:
        return slow(expired, ())
    if case.reading.undecided or not proven(case):
        return None
    return Decision(
        Verdict.ONE_SUSPECT,
        Confidence.MEDIUM,
        "its deadline passed and it does not move, while all others do",
        expired,
    )


_RULES: tuple[Callable[[Run], Decision | None], ...] = (
    _alone,
    _held_up,
    _in_another_scope,
    _all_in_operations,
    _odd_one_out,
    _same_scope,
    _only_one_expired,
)


def by_stacks(run: Run) -> Decision:
    """Apply the rules; the first that applies decides."""
    for rule in _RULES:
        decision = rule(run)
        if decision is not None:
            return decision
    return Decision(
        Verdict.INCONCLUSIVE,
        Confidence.LOW,
        "the workers are in different places and none of them stands out",
    )
