"""Edges of the wait-for graph that the kernel knows of: locks, pipes and sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from observability.hang.graph import Edge, Evidence, Strength
from observability.samples.waits import Wait

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .case import Case

__all__ = ["link_edges", "link_words"]


def link_edges(cases: Sequence[Case]) -> Iterable[Edge]:
    """Yield who waits for whom on this host.

    A worker that asks again and again while another one waits for what it holds may ask for what
    only that one could give: a circle, but one of its steps is a guess.
    """
    for case in cases:
        link = case.view.surroundings.link
        holders = {_owner(pid, case.view.host, cases) for pid in link.pids} if link else set()
        # With several processes at the other end nobody knows which of them is to write.
        if link is None or len(holders) != 1 or link.own_end:
            continue
        [holder] = holders
        if holder is None or holder is case:
            continue
        evidence = Evidence.LOCKS if link.is_lock else Evidence.KERNEL
        why = f"{'holds' if link.is_lock else 'has the other end of'} {link.what}, for which "
        why += f"{_name(case)} waits"
        # Who has the other end open may serve it for somebody else.
        strength = Strength.PROOF if link.is_lock else Strength.LIKELY
        yield Edge(case.index, holder.index, evidence, strength, why)
        if holder.reading.reason.wait is Wait.ASKING:
            yield Edge(
                holder.index,
                case.index,
                Evidence.STACKS,
                Strength.GUESS,
                f"may be what {_name(holder)} asks for again and again",
            )


def link_words(case: Case, cases: Sequence[Case]) -> str | None:
    """Say what a worker is blocked on, as words that follow "waits for"; None when unknown."""
    link = case.view.surroundings.link
    if link is None:
        return None
    if link.own_end and not link.pids:
        return f"{link.what} of which it has both ends"
    verb = "which {} holds" if link.is_lock else "from {}"
    names = []
    for pid in link.pids[:3]:
        owner = _owner(pid, case.view.host, cases)
        inside = "" if owner is None or owner is case else f" of {_name(owner)}"
        names.append(f"process {pid}{inside}")
    if not names:
        return link.what if not link.is_lock else f"{link.what}, whose holder has ended"
    return f"{link.what}{',' if link.is_lock else ''} {verb.format(' or '.join(names))}"


def _owner(pid: int, host: str, cases: Sequence[Case]) -> Case | None:
    """Return the worker that a process is, or belongs to."""
    for case in cases:
        if case.view.host == host and (
            case.view.worker.pid == pid or any(pid == each.pid for each in case.view.descendants)
        ):
            return case
    return None


def _name(case: Case) -> str:
    rank = case.view.worker.rank
    return f"process {case.view.worker.pid}" if rank is None else f"rank {rank}"
