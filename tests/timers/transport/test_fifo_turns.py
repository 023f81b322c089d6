"""What the server takes from its pipe at a time, and what it knows of the rest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.children import descriptors
from support.pipes import fill
from timers.transport import _peek, fifo_reader
from timers.transport.fifo_reader import FifoReader, FifoSource
from timers.transport.fifo_writer import FifoWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINE = b'{"version": 1, "pid": %d, "scope_id": "x", "expiration_time": -1, "signal": 0}\n'


@pytest.fixture
def source(tmp_path: Path) -> Iterator[FifoSource]:
    source = FifoSource(str(tmp_path / "pipe"))
    yield source
    source.close()


def write(source: FifoSource, data: bytes) -> None:
    fd = os.open(source.reader.path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        assert not data or os.write(fd, data) == len(data)
    finally:
        os.close(fd)


def pids(source: FifoSource, *wanted: int) -> list[int]:
    """What a read returns for workers of which everything is wanted."""
    messages, rejections = source.read(0.0, wanted)
    assert not rejections
    return [message.pid for message in messages]


def test_a_full_pipe_is_read_in_turns(source: FifoSource) -> None:
    write(source, LINE % 77 * 10_000)
    turns = []
    while turn := pids(source):
        turns.append(len(turn))
    assert sum(turns) == 10_000
    assert max(turns) <= fifo_reader._TURN_BYTES // len(LINE % 77) + 1


def test_who_has_nothing_in_the_pipe_does_not_wait_for_the_others(source: FifoSource) -> None:
    write(source, LINE % 77 * 10_000)
    assert 0 < len(pids(source, 7, 770, 177)) < 5000


def test_who_has_something_in_it_has_it_read(source: FifoSource) -> None:
    write(source, LINE % 77 * 10_000 + LINE % 7)
    found = pids(source, 1234, 7)
    assert found == [77] * 10_000 + [7]


def test_a_line_of_which_a_part_has_been_read_counts(source: FifoSource) -> None:
    begun = b'{"version": 1, "pid": 12'
    write(source, begun)
    assert pids(source) == []
    write(
        source, b'34, "scope_id": "x", "expiration_time": -1, "signal": 0}\n' + LINE % 77 * 10_000
    )
    assert pids(source, 1234)[0] == 1234
    write(source, begun)
    write(source, b'34, "scope_id": "x", "expiration_time": -1, "signal": 0}\n')
    assert 1234 in pids(source, 1234)


def test_where_the_pipe_cannot_be_peeked_into_all_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_peek, "F_SETPIPE_SZ", -1)
    source = FifoSource(str(tmp_path / "pipe"))
    assert source.reader.peek() is None
    write(source, LINE % 77 * 10_000)
    assert len(pids(source, 7)) == 10_000
    source.close()


def test_peeking_takes_nothing(tmp_path: Path) -> None:
    reader = FifoReader(str(tmp_path / "pipe"))
    before = descriptors()
    assert reader.peek() == b""
    writer = FifoWriter(reader.path)
    fill(writer._open())
    everything = reader.peek()
    assert everything
    assert len(everything) > fifo_reader._TURN_BYTES
    assert reader.peek() == everything
    assert reader.read() == everything
    assert reader.peek() == b""
    writer.close()
    reader.close()
    assert reader.peek() is None
    assert len(descriptors()) < len(before)


@given(
    lines=st.lists(st.sampled_from([1, 7, 12, 77, 123, 1234]), max_size=60),
    wanted=st.sets(st.sampled_from([1, 7, 12, 77, 123, 1234, 5]), max_size=3),
    cut=st.integers(0, 5000),
    turn=st.integers(1, 300),
)
def test_nothing_of_those_wanted_is_left_in_the_pipe(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[int],
    wanted: set[int],
    cut: int,
    turn: int,
) -> None:
    source = FifoSource(str(tmp_path_factory.mktemp("turns") / "pipe"))
    data = b"".join(LINE % pid for pid in lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fifo_reader, "_TURN_BYTES", turn)
        write(source, data[:cut])
        found = pids(source)
        write(source, data[cut:])
        found += pids(source, *wanted)
        left = []
        while source.reader.peek():
            left += pids(source)
    assert found + left == lines
    assert not wanted & set(left)
    source.close()
