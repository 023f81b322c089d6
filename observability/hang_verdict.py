"""Who holds up the others: the decision, made from one reading of each worker.

The rules, in this order; the first that applies decides:

1. A worker that is stopped, gone or in an uninterruptible wait holds up the others, whatever the
   stacks say.
2. A run of one worker has nobody to compare with.
3. Some workers wait in an operation that ends when all have joined it, and others are elsewhere:
   those elsewhere hold them up.
4. All wait in such operations: the same one, or different ones.
5. No such operation is known: most are in one place and few are elsewhere.
6. Of those that are left, one is inside the same scope as the others but waits for nothing that
   another worker could give.

Nobody is accused who moves, who may be waiting for another one that is accused, or when as many
speak for it as against it. Workers that compute, and were looked at only once, may be slow.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .hang_reading import Condition, Reading
from .hang_types import Confidence, Pace, Verdict
from .hang_waits import Peers, Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from .hang_input import WorkerView

__all__ = ["Case", "Decision", "decide"]


@dataclass(frozen=True, slots=True)
class Case:
    """One worker with what was read from it."""

    view: WorkerView
    reading: Reading


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows."""

    verdict: Verdict
    confidence: Confidence
    reason: str
    """Why, and why not surer: a sentence without its full stop."""
    suspects: tuple[Case, ...] = ()
    lagging: tuple[Case, ...] = ()
    """Those the others wait for, without being accused."""
    waiting: tuple[Case, ...] = ()
    """Those who wait for them, or together."""


@dataclass(frozen=True, slots=True)
class _Run:
    """The workers of the run, sorted once for all rules."""

    cases: tuple[Case, ...]
    complete: bool
    """Whether every rank of the job is here; true when its size is unknown."""
    gone: tuple[Case, ...]
    blind: tuple[Case, ...]
    halted: tuple[Case, ...]
    """Stopped, or held by a debugger."""
    deep: tuple[Case, ...]
    """In an uninterruptible wait in which they do not get anywhere."""
    alive: tuple[Case, ...]
    """All others: those whose stacks can be compared."""


def decide(cases: Sequence[Case], *, world_size: int | None = None) -> Decision:
    """Apply the rules.

    :param cases: one for each worker; a rank that was restarted only once.
    :param world_size: how many ranks the job has, where known.
    """
    run = _sorted(cases, world_size)
    for rule in _RULES:
        decision = rule(run)
        if decision is not None:
            return decision
    return Decision(
        Verdict.INCONCLUSIVE,
        Confidence.LOW,
        "the workers are in different places and none of them stands out",
    )


def _sorted(cases: Sequence[Case], world_size: int | None) -> _Run:
    gone: list[Case] = []
    blind: list[Case] = []
    halted: list[Case] = []
    deep: list[Case] = []
    alive: list[Case] = []
    awaited = any(case.reading.reason.peers > Peers.BY_SCOPE for case in cases)
    for case in cases:
        condition = case.reading.condition
        if condition is Condition.GONE:
            gone.append(case)
        elif condition.broken:
            halted.append(case)
        elif condition is Condition.UNINTERRUPTIBLE and _stays(case, awaited=awaited):
            deep.append(case)
        elif condition is Condition.BLIND:
            blind.append(case)
        else:
            alive.append(case)
    complete = world_size is None or len(cases) >= world_size
    lists = (gone, blind, halted, deep, alive)
    return _Run(tuple(cases), complete, *map(tuple, lists))


def _stays(case: Case, *, awaited: bool) -> bool:
    """Whether a process in state D is there for long: each read of a disk passes through it."""
    return case.reading.pace is Pace.STUCK or (awaited and not case.reading.moves)


# -- rule 1 --------------------------------------------------------------------------------------


def _broken(run: _Run) -> Decision | None:
    present = len(run.cases) - len(run.gone)
    if present and len(run.halted) == present and present > 1:
        return Decision(
            Verdict.COMMON_WAIT,
            Confidence.HIGH,
            "every worker is stopped, as a job is that was suspended as a whole",
            waiting=run.halted,
        )
    if len(run.deep) > 1 and len(run.deep) * 2 > present:
        return Decision(
            Verdict.COMMON_WAIT,
            Confidence.HIGH,
            "most workers are in an uninterruptible wait, which is one for storage or a device",
            waiting=run.deep,
        )
    gone = tuple(case for case in run.gone if _missed(case, run))
    suspects = run.halted + run.deep + gone
    if not suspects:
        return None
    sure = all(case.reading.pace is Pace.STUCK for case in run.deep)
    reason = "what the kernel says of a process is no guess"
    if not sure:
        reason = "the state D was seen at one look only"
    elif len(suspects) == len(gone) and not all(case.view.unclean for case in gone):
        sure, reason = False, "it ended without a failure, but the others wait for it"
    return Decision(
        _accusing(suspects),
        Confidence.HIGH if sure else Confidence.MEDIUM,
        reason,
        suspects,
        waiting=_peers(run.alive),
    )


def _missed(case: Case, run: _Run) -> bool:
    """Whether the others can be waiting for one that has ended."""
    if case.view.unclean:
        return True
    clean = sum(not each.view.unclean for each in run.gone)
    if not run.alive or clean > max(1, len(run.cases) // 2):
        return False  # When most have finished, it is those who did not that differ.
    if any(not each.reading.reason.wait.may_be_for_peers for each in run.alive):
        return False
    certain = any(each.reading.reason.peers > Peers.BY_SCOPE for each in run.alive)
    return certain or all(each.view.worker.rank is not None for each in run.cases)


# -- rule 2 --------------------------------------------------------------------------------------


def _alone(run: _Run) -> Decision | None:
    if not run.alive:
        return _sightless(run)
    if len(run.alive) > 1 or run.blind:
        return None
    [case] = run.alive
    if case.reading.moves:
        return _slow(run.alive, ())
    if case.reading.reason.wait.may_be_for_peers and case.reading.child is None:
        return Decision(
            Verdict.COMMON_WAIT,
            Confidence.LOW,
            "no other worker is known here that it could be compared with",
            waiting=run.alive,
        )
    if case.reading.undecided:
        return _undecided(run.alive, ())
    return Decision(
        Verdict.ONE_SUSPECT,
        Confidence.MEDIUM,
        "no other worker is known here, and what it does needs none",
        run.alive,
    )


def _sightless(run: _Run) -> Decision:
    errors = [case.reading.error for case in run.blind if case.reading.error]
    why = f": {errors[0].splitlines()[0]}" if errors else ""
    return Decision(
        Verdict.INCONCLUSIVE, Confidence.LOW, f"no stack could be read{why}", waiting=run.blind
    )


# -- rule 3 --------------------------------------------------------------------------------------


def _held_up(run: _Run) -> Decision | None:
    level = max((case.reading.reason.peers for case in run.alive), default=Peers.NO)
    if level is Peers.NO:
        return None
    peers = tuple(case for case in run.alive if case.reading.reason.peers is level)
    others = tuple(case for case in run.alive if case.reading.reason.peers < level)
    if others and all(case.reading.reason.peers is Peers.BY_NAME for case in others):
        return None  # Theirs may be such an operation, too, which is for the next rule.
    if level is Peers.BY_SCOPE:
        # A name that somebody gave to a timer: only against those who wait for nothing of others.
        others = tuple(case for case in others if not case.reading.reason.wait.may_be_for_peers)
    if not others:
        return None
    stuck, lagging = _split(others)
    if len(others) * 2 > len(run.alive):
        return _most_elsewhere(run, stuck, lagging)
    return _accuse(stuck, lagging, peers, certain=level is Peers.CERTAIN)


def _most_elsewhere(
    run: _Run, stuck: tuple[Case, ...], lagging: tuple[Case, ...]
) -> Decision | None:
    """More workers are outside the operation than in it, so those outside are no exception."""
    if lagging and not stuck:
        moving = [case for case in lagging if case.reading.moves]
        return _slow(tuple(moving), ()) if moving else _undecided(lagging, ())
    if len({case.reading.family for case in stuck}) == 1 and len(stuck) > 1:
        return _together(stuck, run, "most workers are in the same place")
    if not lagging and all(_proven(case) for case in stuck):
        return Decision(
            _accusing(stuck),
            Confidence.LOW,
            "they were at the same calls at every look, and what they wait for is not another rank",
            stuck,
            waiting=_peers(run.alive),
        )
    return None


def _split(others: Iterable[Case]) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Those that are stuck, and those that move or may move."""
    stuck: list[Case] = []
    lagging: list[Case] = []
    for case in others:
        moves = case.reading.moves or case.reading.undecided
        (lagging if moves else stuck).append(case)
    return tuple(stuck), tuple(lagging)


def _accuse(
    stuck: tuple[Case, ...],
    lagging: tuple[Case, ...],
    waiting: tuple[Case, ...],
    *,
    certain: bool,
) -> Decision:
    """Choose among those that others wait for."""
    plain = tuple(case for case in stuck if not _may_wait_for_others(case))
    # One that may itself be waiting for a worker is not accused next to one that is not.
    suspects = plain or (() if lagging else stuck)
    if not suspects:
        moving = tuple(case for case in lagging if case.reading.moves)
        return _slow(moving, waiting) if moving else _undecided(lagging, waiting)
    if certain and all(_proven(case) for case in suspects):
        confidence = Confidence.HIGH
        reason = "the others are in an operation that needs every rank, and it did not move"
    elif certain:
        confidence = Confidence.MEDIUM
        reason = (
            "the others are in an operation that needs every rank; it was looked at too rarely to "
            "know that it does not move"
        )
    else:
        confidence = Confidence.MEDIUM if plain else Confidence.LOW
        reason = "the others wait together; that they wait for it is a guess from where they are"
    moving = tuple(case for case in lagging if case.reading.moves)
    return Decision(_accusing(suspects), confidence, reason, suspects, moving, waiting)


def _may_wait_for_others(case: Case) -> bool:
    reading = case.reading
    if reading.child is not None or reading.holds_gil:
        return False
    return reading.reason.wait.may_be_for_peers


def _proven(case: Case) -> bool:
    inner = case.reading.child_reading or case.reading
    if inner.condition.broken or inner.condition is Condition.UNINTERRUPTIBLE:
        return True
    return inner.pace in (Pace.STUCK, Pace.SPINNING)


# -- rule 4 --------------------------------------------------------------------------------------


def _all_in_operations(run: _Run) -> Decision | None:
    cases = run.alive
    level = min(case.reading.reason.peers for case in cases)
    if level < Peers.BY_NAME:
        return None
    if _mostly_moving(cases):
        return _slow(tuple(case for case in cases if case.reading.moves), ())
    operations = Counter(case.reading.reason.operation for case in cases)
    places = Counter(case.reading.family for case in cases)
    if len(operations) == 1:
        return _together(
            cases,
            run,
            "all are in the same operation"
            if len(places) == 1
            else "all are in the same operation, though not called from the same place",
        )
    direct = any(case.reading.reason.wait is Wait.POINT_TO_POINT for case in cases)
    most, odd = _odd_ones(cases, lambda case: case.reading.reason.operation)
    few = len(odd) * 3 <= len(cases) and len({case.reading.family for case in odd}) == 1
    certain = most[0].reading.reason.peers is Peers.CERTAIN
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
        Confidence.LOW if len(cases) < 4 else Confidence.MEDIUM,  # noqa: PLR2004  # 3 to 1
        "it is in another operation than all others, unless they belong to different groups",
        odd,
        waiting=most,
    )


# -- rule 5 --------------------------------------------------------------------------------------


def _odd_one_out(run: _Run) -> Decision | None:
    cases = run.alive
    most, odd = _odd_ones(cases, lambda case: case.reading.family)
    if not odd:
        if _mostly_moving(cases):
            return _slow(cases, ())
        return _together(cases, run, "all are in the same place")
    second = max(Counter(case.reading.family for case in odd).values())
    if len(most) < 2 or len(most) * 2 < len(cases) or second >= len(most):  # noqa: PLR2004
        return None
    if _mostly_moving(most):
        return None
    if most[0].reading.reason.wait.is_for_own_things:
        # Each waits for something of its own, not for the one that is elsewhere.
        return _together(most, run, "most are in the same place") if _majority(most, run) else None
    return _against_most(run, most, odd)


def _against_most(run: _Run, most: tuple[Case, ...], odd: tuple[Case, ...]) -> Decision | None:
    candidates = [case for case in odd if case.reading.reason.peers <= Peers.BY_SCOPE]
    stuck, lagging = _split(candidates)
    if most[0].reading.reason.wait is Wait.COMPUTE or not _majority(most, run):
        # MPI and CUDA wait by spinning, but those who compute may also just be busy.
        stuck = tuple(case for case in stuck if not _may_wait_for_others(case))
    if not stuck and not lagging:
        return None
    if lagging or not all(_may_wait_for_others(case) for case in stuck):
        return _accuse(stuck, lagging, most, certain=False)
    # Where ranks exchange data by hand, the first one usually collects from all others, and so is
    # elsewhere than they are without being to blame.
    accusable = tuple(case for case in stuck if case.view.worker.rank not in (None, 0))
    if len(accusable) == 1:
        return _accuse(accusable, (), most, certain=False)
    return Decision(
        Verdict.INCONCLUSIVE,
        Confidence.LOW,
        "it is elsewhere than most, but may itself be waiting for another worker",
        lagging=stuck,
        waiting=most,
    )


def _majority(most: Sequence[Case], run: _Run) -> bool:
    return len(most) * 2 > len(run.alive)


# -- rule 6 --------------------------------------------------------------------------------------


def _same_scope(run: _Run) -> Decision | None:
    cases = run.alive
    waiting = tuple(case for case in cases if _may_wait_for_others(case))
    others = tuple(case for case in cases if not _may_wait_for_others(case))
    if not waiting or not others or len(others) * 2 > len(cases):
        return None
    if len({case.view.scope_id for case in cases}) != 1 or cases[0].view.scope_id is None:
        return None
    if any(case.reading.moves for case in waiting):
        return None
    stuck, lagging = _split(others)
    sure = all(_proven(case) for case in stuck) or all(case.view.expired for case in cases)
    if len(cases) == 2 and not sure:  # noqa: PLR2004
        return None  # One look at each: a wait and a pause are no evidence against either.
    return _accuse(stuck, lagging, waiting, certain=False)


def _only_one_expired(run: _Run) -> Decision | None:
    """One worker is stuck in its scope while all others are at work outside of theirs."""
    expired = tuple(case for case in run.alive if case.view.expired)
    others = tuple(case for case in run.alive if not case.view.expired)
    if len(expired) != 1 or not others:
        return None
    [case] = expired
    if case.reading.reason.peers or not all(each.reading.moves for each in others):
        return None
    if case.reading.moves:
        return _slow(expired, ())
    if case.reading.undecided or not _proven(case):
        return None
    return Decision(
        Verdict.ONE_SUSPECT,
        Confidence.MEDIUM,
        "its deadline passed and it does not move, while all others do",
        expired,
    )


_RULES: tuple[Callable[[_Run], Decision | None], ...] = (
    _broken,
    _alone,
    _held_up,
    _all_in_operations,
    _odd_one_out,
    _same_scope,
    _only_one_expired,
)


_SOURCES = {
    Wait.STORAGE: "storage",
    Wait.LOCK: "whoever holds the lock",
    Wait.NETWORK: "a peer or a server outside of these workers",
    Wait.PIPE: "whoever writes to the pipe (or stores the file)",
    Wait.CHILD: "the processes that each of them started",
    Wait.THREAD: "other threads of their own",
    Wait.COMPUTE: "nothing: they compute",
    Wait.SLEEP: "time to pass, or something that they ask for again and again",
}


# -- shared --------------------------------------------------------------------------------------


def _accusing(suspects: Sequence[Case]) -> Verdict:
    return Verdict.ONE_SUSPECT if len(suspects) == 1 else Verdict.SEVERAL_SUSPECTS


def _peers(cases: Iterable[Case]) -> tuple[Case, ...]:
    return tuple(case for case in cases if case.reading.reason.wait.may_be_for_peers)


def _mostly_moving(cases: Sequence[Case]) -> bool:
    # Those who ask again and again whether the others are there do not get anywhere.
    return sum(case.reading.pace is Pace.SLOW for case in cases) * 2 > len(cases)


def _odd_ones(
    cases: Sequence[Case], key: Callable[[Case], Hashable]
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """The largest group, and all others."""
    [(largest, _)] = Counter(key(case) for case in cases).most_common(1)
    most = tuple(case for case in cases if key(case) == largest)
    return most, tuple(case for case in cases if key(case) != largest)


def _slow(moving: tuple[Case, ...], waiting: tuple[Case, ...]) -> Decision:
    return Decision(
        Verdict.SLOW,
        Confidence.HIGH if waiting else Confidence.MEDIUM,
        "it moved between the looks at it, so perhaps the deadline is too short",
        lagging=moving,
        waiting=waiting,
    )


def _undecided(lagging: tuple[Case, ...], waiting: tuple[Case, ...]) -> Decision:
    return Decision(
        Verdict.INCONCLUSIVE,
        Confidence.LOW,
        "it computes, and was looked at too rarely to tell whether it gets anywhere",
        lagging=lagging,
        waiting=waiting,
    )


def _together(cases: tuple[Case, ...], run: _Run, why: str) -> Decision:
    if all(case.reading.undecided for case in cases):
        return _undecided(cases, ())
    wait = cases[0].reading.reason.wait
    where = _SOURCES.get(wait, "something that none of them has")
    if cases[0].reading.reason.peers:
        where = "a rank that is not known here, or the network between them"
    sure = len(cases) == len(run.alive)
    return Decision(
        Verdict.COMMON_WAIT,
        Confidence.HIGH if sure and len(cases) > 2 else Confidence.MEDIUM,  # noqa: PLR2004
        f"{why}; what they wait for is {where}",
        waiting=cases,
    )
