"""The workers of a run, sorted for the comparison, and what every rule of it needs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from observability.hang.graph import Evidence
from observability.hang.types import Confidence, Verdict
from observability.samples.reading import Condition, Reading
from observability.samples.types import Pace
from observability.samples.waits import Peers, Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from observability.samples.types import WorkerView

__all__ = [
    "Case",
    "Decision",
    "Run",
    "accuse",
    "accusing",
    "may_wait_for_others",
    "mostly_moving",
    "odd_ones",
    "peers_of",
    "possible_peers",
    "proven",
    "slow",
    "sort",
    "split",
    "together",
    "undecided",
    "waits_for_nobody",
]


@dataclass(frozen=True, slots=True)
class Case:
    """One worker with what was read from it."""

    view: WorkerView
    reading: Reading
    index: int = 0
    """Position among the cases of the run."""


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
    evidence: tuple[Evidence, ...] = (Evidence.STACKS,)
    """What decided, the surest first."""
    holds_up: Mapping[int, str] = field(default_factory=dict)
    """What the others miss of one, by its position: ``has not joined all_reduce #26``."""


@dataclass(frozen=True, slots=True)
class Run:
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


def sort(cases: Sequence[Case], world_size: int | None) -> Run:
    """Sort the workers of a run by the state they are in."""
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
    return Run(tuple(cases), complete, *map(tuple, lists))


def _stays(case: Case, *, awaited: bool) -> bool:
    """Whether a process in state D is there for long: each read of a disk passes through it."""
    return case.reading.pace is Pace.STUCK or (awaited and not case.reading.moves)


def split(others: Iterable[Case]) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Those that are stuck, and those that move or may move."""
    stuck: list[Case] = []
    lagging: list[Case] = []
    for case in others:
        moves = case.reading.moves or case.reading.undecided
        (lagging if moves else stuck).append(case)
    return tuple(stuck), tuple(lagging)


def accuse(
    stuck: tuple[Case, ...],
    lagging: tuple[Case, ...],
    waiting: tuple[Case, ...],
    *,
    certain: bool,
) -> Decision:
    """Choose among those that others wait for."""
    plain = tuple(case for case in stuck if not may_wait_for_others(case))
    # One that may itself be waiting for a worker is not accused next to one that is not.
    suspects = plain or (() if lagging else stuck)
    moving = tuple(case for case in lagging if case.reading.moves)
    if not suspects:
        return slow(moving, waiting) if moving else undecided(lagging, waiting)
    if certain and all(proven(case) for case in suspects):
        confidence = Confidence.HIGH
        reason = "the others are in an operation that needs every rank, and it did not move"
    elif certain:
        confidence = Confidence.MEDIUM
        reason = (
            "the others are in an operation that needs every rank; it was sampled too rarely to "
            "know that it does not move"
        )
    else:
        confidence = Confidence.MEDIUM if plain else Confidence.LOW
        reason = "the others wait together; that they wait for it is a guess from where they are"
    return Decision(accusing(suspects), confidence, reason, suspects, moving, waiting)


def may_wait_for_others(case: Case) -> bool:
    """Whether it may be waiting for another worker, as far as its own stack tells."""
    reading, link = case.reading, case.view.surroundings.link
    if reading.child is not None or reading.holds_gil:
        return False
    # At the other end of what it is blocked on there is nobody else.
    alone = link is not None and link.own_end and not link.pids
    return reading.reason.wait.may_be_for_peers and not alone


def waits_for_nobody(case: Case) -> bool:
    """Whether it waits, and it is known that no other worker can be what it waits for."""
    waits = case.reading.reason.wait.may_be_for_peers
    return waits and not may_wait_for_others(case)


def peers_of(case: Case) -> Peers:
    """Return how sure it is that a worker waits for the others; a name is no evidence of that."""
    peers = case.reading.reason.peers
    return Peers.NO if peers is Peers.BY_NAME and waits_for_nobody(case) else peers


def proven(case: Case) -> bool:
    """Whether it was seen not to get anywhere."""
    inner = case.reading.child_reading or case.reading
    if inner.condition.broken or inner.condition is Condition.UNINTERRUPTIBLE:
        return True
    return inner.pace in (Pace.STUCK, Pace.SPINNING)


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


def accusing(suspects: Sequence[Case]) -> Verdict:
    """The verdict for that many suspects."""
    return Verdict.ONE_SUSPECT if len(suspects) == 1 else Verdict.SEVERAL_SUSPECTS


def possible_peers(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Those of ``cases`` that may be waiting for another worker."""
    return tuple(case for case in cases if case.reading.reason.wait.may_be_for_peers)


def mostly_moving(cases: Sequence[Case]) -> bool:
    """Whether most of ``cases`` got somewhere."""
    # Those who ask again and again whether the others are there do not get anywhere.
    return sum(case.reading.pace is Pace.SLOW for case in cases) * 2 > len(cases)


def odd_ones(
    cases: Sequence[Case], key: Callable[[Case], Hashable]
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """The largest group, and all others."""
    [(largest, _)] = Counter(key(case) for case in cases).most_common(1)
    most = tuple(case for case in cases if key(case) == largest)
    return most, tuple(case for case in cases if key(case) != largest)


def slow(moving: tuple[Case, ...], waiting: tuple[Case, ...]) -> Decision:
    """Nobody is to blame: those in ``moving`` got somewhere."""
    return Decision(
        Verdict.SLOW,
        Confidence.HIGH if waiting else Confidence.MEDIUM,
        "it is at work: perhaps the deadline is too short",
        lagging=moving,
        waiting=waiting,
    )


def undecided(lagging: tuple[Case, ...], waiting: tuple[Case, ...]) -> Decision:
    """Nobody knows whether those in ``lagging`` get anywhere."""
    return Decision(
        Verdict.INCONCLUSIVE,
        Confidence.LOW,
        "it computes, and was sampled too rarely to tell whether it gets anywhere",
        lagging=lagging,
        waiting=waiting,
    )


def together(cases: tuple[Case, ...], run: Run, why: str) -> Decision:
    """Nobody differs: ``cases`` wait for the same thing, which is elsewhere."""
    if all(case.reading.undecided for case in cases):
        return undecided(cases, ())
    wait = cases[0].reading.reason.wait
    where = _SOURCES.get(wait, "something that none of them has")
    if cases[0].reading.reason.peers:
        where = "a rank that is not known here, or the network between them"
    sure = len(cases) == len(run.alive)
    return Decision(
        Verdict.COMMON_WAIT,
        Confidence.HIGH if sure and len(cases) > 2 else Confidence.MEDIUM,  # noqa: PLR2004  # a majority of three
        f"{why}; what they wait for is {where}",
        waiting=cases,
    )
