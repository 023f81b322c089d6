"""Recordings that travel in events, to be put together with those of other hosts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.hang.json import extra_fields, view_from
from observability.hang.report import analyse
from observability.recorder._read import from_json
from observability.recorder.json import from_plain, to_plain
from observability.recorder.types import GroupRecord, Operation, Recording
from support import hang_events
from support.recorded import recorder_dump, views


@pytest.mark.parametrize("case", ["skip", "mismatch", "kernel", "groups"])
def test_the_report_from_events_says_what_the_report_on_the_host_said(case: str) -> None:
    here = analyse(views(case))
    lines = [json.loads(json.dumps(line)) for line in hang_events.hang(views(case))]
    there = analyse([view_from(line) for line in lines if line["event"] == "stack dumped"])
    assert [each.rank for each in there.suspects] == [each.rank for each in here.suspects]
    assert [each.holds_up for each in there.suspects] == [e.holds_up for e in here.suspects]
    assert there.verdict is here.verdict
    assert there.evidence == here.evidence


def test_what_is_under_way_survives() -> None:
    for rank in range(4):
        recording = from_json(recorder_dump("groups", rank))
        again = from_plain(json.loads(json.dumps(to_plain(recording))))
        assert again is not None
        for before, after in zip(
            sorted(recording.groups, key=lambda group: group.name),
            sorted(again.groups, key=lambda group: group.name),
            strict=True,
        ):
            assert (after.name, after.ranks, after.last) == (before.name, before.ranks, before.last)
            assert after.pending == before.pending


def test_the_ranks_of_a_large_group_take_no_room() -> None:
    calls = tuple(Operation(number, "all_reduce", ((1,),), "Float") for number in range(1, 60))
    odd = GroupRecord("1", ranks=tuple(range(0, 16_000, 2)))
    plain = to_plain(
        Recording(groups=(GroupRecord("0", ranks=tuple(range(16_000)), collectives=calls), odd))
    )
    assert plain["groups"][0]["ranks"] == "0-15999"
    assert len(json.dumps(plain["groups"][0])) < 1000


def test_a_rank_that_did_not_answer_says_so() -> None:
    silent = replace(views("skip")[0], recording=Recording(error="no answer within 1 s"))
    fields = extra_fields(silent)
    assert fields["recorder"]["error"] == "no answer within 1 s"
    assert view_from(fields).recording == silent.recording


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
NAMED = st.dictionaries(
    st.sampled_from(["name", "ranks", "last", "collectives", "transfers", "backend"]), PLAIN
)


@given(PLAIN | st.fixed_dictionaries({"groups": st.lists(NAMED | PLAIN)}))
def test_anything_is_read_or_left_out(value: Any) -> None:
    found = from_plain(value)
    assert found is None or from_plain(to_plain(found)) is not None
