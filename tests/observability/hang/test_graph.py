"""The wait-for graph: where chains end, what a circle is, and what a guess is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.hang.graph import Edge, Evidence, Meeting, Node, Strength, ends_of

if TYPE_CHECKING:
    import random

BARRIER = Meeting("barrier #3 of default_pg")


def edge(source: Node, target: Node, strength: Strength = Strength.PROOF, why: str = "") -> Edge:
    return Edge(source, target, Evidence.RECORDER, strength, why)


def test_the_end_of_a_chain() -> None:
    [end] = ends_of([edge(0, 1), edge(1, 2), edge(3, 2, why="is late")])
    assert end.workers == (2,)
    assert end.waiting == (0, 1, 3)
    assert end.strength is Strength.PROOF
    assert not end.is_cycle
    assert "is late" in {each.why for each in end.edges}


def test_a_meeting_waits_for_those_who_have_not_joined() -> None:
    joined = [edge(index, BARRIER) for index in (0, 1, 3)]
    [end] = ends_of([*joined, edge(BARRIER, 2)])
    assert (end.workers, end.waiting) == ((2,), (0, 1, 3))
    [end] = ends_of(joined)
    assert (end.workers, end.meetings, end.waiting) == ((), (BARRIER,), (0, 1, 3))


def test_a_circle_has_all_its_members_and_who_waits_for_it() -> None:
    [end] = ends_of([edge(0, 1), edge(1, 2), edge(2, 0), edge(5, 0)])
    assert end.is_cycle
    assert (end.workers, end.waiting) == ((0, 1, 2), (5,))


def test_a_circle_that_somebody_can_break_is_no_end() -> None:
    [end] = ends_of([edge(0, 1), edge(1, 0), edge(1, 2)])
    assert (end.workers, end.is_cycle) == ((2,), False)


def test_a_guess_never_outweighs_a_proof() -> None:
    [end] = ends_of([edge(0, 1), edge(0, 2, Strength.GUESS)])
    assert end.workers == (1,)
    [end] = ends_of([edge(0, 1, Strength.LIKELY), edge(1, 2, Strength.GUESS)])
    assert (end.workers, end.strength) == ((2,), Strength.LIKELY.GUESS)


def test_the_surest_way_counts() -> None:
    weak = [edge(0, 1, Strength.GUESS), edge(1, 2, Strength.GUESS)]
    [end] = ends_of([*weak, edge(3, 2)])
    assert (end.workers, end.strength) == ((2,), Strength.PROOF)


def test_nobody_waits_for_himself() -> None:
    assert ends_of([edge(1, 1)]) == ()
    assert ends_of([]) == ()


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=30), st.randoms())
def test_every_chain_ends_somewhere_whatever_the_order(
    pairs: list[tuple[int, int]], order: random.Random
) -> None:
    edges = [edge(source, target) for source, target in pairs if source != target]
    ends = ends_of(edges)
    shuffled = list(edges)
    order.shuffle(shuffled)
    assert {end.workers for end in ends} == {end.workers for end in ends_of(shuffled)}
    inside = [set(end.workers) for end in ends]
    for end in ends:
        assert all(each.target in end.workers for each in edges if each.source in end.workers)
    members = {index for each in edges for index in (each.source, each.target)}
    reached = {index for end in ends for index in (*end.workers, *end.waiting)}
    assert members == reached
    assert sum(map(len, inside)) == len(set().union(*inside))


@pytest.mark.slow
@pytest.mark.parametrize("size", [16_000])
def test_a_chain_may_be_long(size: int) -> None:
    [end] = ends_of([edge(index, index + 1) for index in range(size)])
    assert (end.workers, len(end.waiting)) == ((size,), size)
