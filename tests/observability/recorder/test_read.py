"""Dumps of the Flight Recorder, as torch writes them and as nobody should."""

from __future__ import annotations

import json
import pickle
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.recorder._pickles import load_plain
from observability.recorder._read import from_json, from_pickle
from observability.recorder.types import Operation, Progress
from support.recorded import recorder_dump


def gloo(number: int, name: str, *, retired: bool, group: str = "0") -> dict[str, Any]:
    """An entry as gloo's recorder of torch 2.13 writes it."""
    return {
        "collective_seq_id": number,
        "input_dtypes": ["Float"],
        "input_sizes": [[10100]],
        "is_p2p": False,
        "p2p_seq_id": 0,
        "pg_id": 0,
        "process_group": [group, "default_pg" if group == "0" else "undefined"],
        "profiling_name": f"gloo:{name}",
        "retired": retired,
        "state": "scheduled",
        "time_discovered_completed_ns": 0,
        "time_discovered_started_ns": 0,
    }


def dumped(*entries: object, **more: object) -> bytes:
    return json.dumps({"entries": entries, "version": "2.10", **more}).encode()


def test_an_answer_of_nccl() -> None:
    found = from_json(recorder_dump("groups", 2))
    assert found.timed
    assert found.answered
    default, pair = sorted(found.groups, key=lambda group: group.name)
    assert (default.name, default.description, default.ranks) == ("0", "default_pg", (0, 1, 2, 3))
    assert (pair.name, pair.ranks, pair.last) == ("2", (2, 3), 21)
    assert pair.pending == Operation(21, "all_reduce", ((8,),), "Float", Progress.STARTED)
    assert default.pending == Operation(26, "all_reduce", ((68362,),), "Float", Progress.SCHEDULED)
    assert default.collectives[0].progress is Progress.COMPLETED


def test_an_answer_of_gloo_says_in_another_way_what_is_over() -> None:
    entries = [gloo(1, "all_reduce", retired=True), gloo(2, "barrier", retired=False)]
    config = {"": {"desc": "", "name": "", "ranks": "[]"}}
    [group] = from_json(dumped(*entries, pg_config=config)).groups
    assert (group.ranks, group.last) == ((), 2)
    assert [each.progress for each in group.collectives] == [
        Progress.COMPLETED,
        Progress.SCHEDULED,
    ]
    assert group.pending is not None
    assert group.pending.name == "barrier"


def test_transfers_name_their_peer_by_its_number_in_the_group() -> None:
    entry = gloo(0, "send", retired=False) | {
        "profiling_name": "nccl:send 1->0",
        "is_p2p": True,
        "p2p_seq_id": "3",
    }
    done = entry | {"state": "completed"}
    [group] = from_json(dumped(entry, done)).groups
    assert group.collectives == ()
    [transfer] = group.transfers
    assert (transfer.name, transfer.number, transfer.peer) == ("send", 3, 0)


def test_a_barrier_of_nccl_is_a_barrier() -> None:
    entry = gloo(7, "x", retired=False) | {"profiling_name": "nccl:all_reduce_barrier"}
    [group] = from_json(dumped(entry)).groups
    assert group.collectives[0].name == "barrier"


def test_what_is_kept_is_around_the_first_operation_that_is_not_completed() -> None:
    entries = [gloo(number, "all_reduce", retired=number < 500) for number in range(1, 1001)]
    [group] = from_json(dumped(*entries)).groups
    assert group.pending is not None
    assert (group.pending.number, group.last) == (500, 1000)
    assert len(group.collectives) <= 64
    assert group.collectives[0].number < 460


def test_pickles_of_plain_data_are_read() -> None:
    plain = json.loads(recorder_dump("skip", 0))
    plain["numbers"] = [1, -5, 2**40, 2**70, 1.5, True, None, (), (1,), (1, 2, 3, 4)]
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(plain, protocol)
        assert load_plain(data) == plain
        assert from_pickle(data) == from_json(recorder_dump("skip", 0))


def test_numbers_may_be_numbers_as_in_the_pickle() -> None:
    entry = gloo(4, "all_reduce", retired=True)
    found = from_pickle(pickle.dumps({"entries": [entry], "pg_config": {}}))
    assert found.groups[0].last == 4


@pytest.mark.parametrize(
    "value", [zlib.crc32, ValueError("x"), object(), {1}, frozenset({1}), complex(1, 2)]
)
def test_a_pickle_that_names_anything_is_refused(value: object) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(ValueError, match="plain data"):
            load_plain(pickle.dumps({"entries": [value]}, protocol))


def test_a_pickle_cannot_ask_for_memory() -> None:
    # The index of a memo entry, which a list would have to be as long as.
    assert load_plain(b"\x80\x02Nr\xff\xff\xff\x7f.") is None
    with pytest.raises(ValueError, match="remain"):
        load_plain(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx.")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"entries": 5}',
        b"[" * 100_000,
        b'{"entries": ' + b"[" * 100_000,
        b"\x80\x02}q\x00.",
        b"\xff" * 100,
    ],
)
def test_what_is_no_dump_is_refused(data: bytes) -> None:
    for read in (from_json, from_pickle):
        with pytest.raises(ValueError):  # noqa: PT011  # of many different texts
            read(data)


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (from_json, from_pickle):
        try:
            read(data)
        except ValueError:
            continue


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(sorted(gloo(1, "x", retired=False)))


@given(
    st.lists(st.dictionaries(NAMES, PLAIN, max_size=4), max_size=4),
    st.dictionaries(st.text(max_size=3), PLAIN, max_size=3),
)
def test_any_values_are_understood_or_left_out(
    entries: list[dict[str, Any]], config: dict[str, Any]
) -> None:
    mixed = [gloo(3, "all_reduce", retired=False) | entry for entry in entries]
    found = from_json(dumped(*mixed, pg_config=config))
    for group in found.groups:
        for operation in (*group.collectives, *group.transfers):
            assert isinstance(operation.number, int)
            assert len(operation.name) <= 80
            operation.name.encode()
