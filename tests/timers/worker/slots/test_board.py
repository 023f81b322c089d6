"""The board that a worker makes: slots, names, seals, and its descriptors."""

from __future__ import annotations

import fcntl
import gc
import os
import random
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from support.children import descriptors
from timers.linux.owned import identity
from timers.server.boards._board import Board as Reader
from timers.transport import board
from timers.transport.board import Layout
from timers.worker.slots.board import Board

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def own() -> Iterator[Board]:
    own = Board(Layout(8, 100))
    yield own
    own.close()


def scope(own: Board, number: int) -> str:
    at = own.layout.infos + number * board.INFO_WORDS
    start, length = own.words[at + board.NAME_AT], own.words[at + board.NAME_LENGTH] - 1
    return own._memory[own.layout.names + start : own.layout.names + start + length].decode()


def test_a_reader_finds_what_was_made() -> None:
    own = Board(Layout())
    reader = Reader(os.dup(own.fd))
    assert (reader.used, list(reader.open_slots()), reader.is_over) == (0, [], False)
    assert reader.file == identity(own.fd)
    own.close()


def test_its_size_is_sealed(own: Board) -> None:
    for size in (0, own.layout.size - 4096, own.layout.size + 4096):
        with pytest.raises(PermissionError):
            os.ftruncate(own.fd, size)
    with pytest.raises(PermissionError):  # for good
        fcntl.fcntl(own.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_slots_are_given_out_one_by_one_until_there_is_none(own: Board) -> None:
    numbers = [own.take(f"scope {number % 3}", 7, 9) for number in range(9)]
    assert numbers == [0, 1, 2, 3, 4, 5, 6, 7, None]
    assert own.words[board.USED] == 8
    assert [scope(own, number) for number in range(8)] == [f"scope {n % 3}" for n in range(8)]
    at = own.layout.infos
    assert (own.words[at + board.THREAD], own.words[at + board.SIGNAL]) == (7, 9)
    assert own.words[own.layout.deadlines + 7] == board.NONE


def test_a_slot_that_was_given_back_serves_the_same_scope_only(own: Board) -> None:
    first = own.take("x", 1, 9)
    assert first is not None
    own.give_back("x", first)
    assert own.take("y", 2, 9) != first
    assert own.take("x", 3, 15) == first
    at = own.layout.infos + first * board.INFO_WORDS
    assert (own.words[at + board.THREAD], own.words[at + board.SIGNAL]) == (3, 15)


def test_a_name_that_does_not_fit_gets_no_slot_and_one_that_is_there_does(own: Board) -> None:
    assert own.take("x" * 60, 1, 9) == 0
    assert own.take("y" * 60, 1, 9) is None
    assert own.take("x" * 60, 2, 9) == 1
    assert own.take("y" * 40, 1, 9) == 2
    assert scope(own, 2) == "y" * 40


def test_threads_that_take_slots_at_once_get_different_ones() -> None:
    own = Board(Layout(2000, 100_000))
    taken: list[list[tuple[int, str]]] = [[] for _ in range(8)]

    def take(thread: int) -> None:
        for number in random.sample(range(250), 250):
            name = f"scope {number} of {thread % 2}"
            found = own.take(name, thread, 9)
            assert found is not None
            taken[thread].append((found, name))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=take, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    every = [pair for each in taken for pair in each]
    assert sorted(number for number, _ in every) == list(range(2000))
    assert all(scope(own, number) == name for number, name in every)
    assert own.words[board.USED] == 2000
    own.close()


def test_surrogates_in_a_scope_are_text_in_the_end(own: Board) -> None:
    own.take("file \udcff", 1, 9)
    at = own.layout.infos
    length = own.words[at + board.NAME_LENGTH] - 1
    data = own._memory[own.layout.names : own.layout.names + length]
    assert data.decode("utf-8", "backslashreplace").isprintable()


def test_it_leaves_no_descriptor() -> None:
    gc.collect()
    before = descriptors()
    own = Board(Layout())
    assert len(descriptors() - before) >= 1
    own.close()
    del own
    assert descriptors() == before


def test_a_descriptor_that_became_anothers_is_not_closed() -> None:
    own = Board(Layout(8, 100))
    mine = [own.fd, own._duplicate]
    assert own.owns_descriptor()
    for fd in mine:
        if fd is not None:
            os.dup2(sys.stderr.fileno(), fd)  # as of a program that closed all and opened its own
    assert not own.owns_descriptor()
    own.close()
    del own
    for fd in mine:
        if fd is not None:
            os.close(fd)  # there it is
