"""What is counted of a board whose worker goes on to write while it is read."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

import pytest

from timers.server.boards._board import Board
from timers.server.boards._counts import BoardCounts
from timers.server.statistics import Statistics
from timers.transport import board

if TYPE_CHECKING:
    from collections.abc import Iterator

ENTER = (1 << board.DEPTH_BITS) + 1


class Written:
    """A board with one slot, of scope "x", as a worker writes it; and its counts."""

    def __init__(self) -> None:
        layout = board.Layout(1)
        fd = os.memfd_create("board", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        os.ftruncate(fd, layout.size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        os.pwrite(fd, board.MAGIC_WORD.to_bytes(8, "little"), board.MAGIC * 8)
        os.pwrite(fd, board.VERSION.to_bytes(8, "little"), board.VERSION_WORD * 8)
        os.pwrite(fd, (1).to_bytes(8, "little"), board.SLOTS * 8)
        os.pwrite(fd, b"x", layout.names)
        self.board = Board(fd)
        self.layout = self.board.layout
        self.words = self.board.words
        self.words[layout.infos + board.NAME_LENGTH] = 2
        self.words[board.USED] = 1
        self.statistics = Statistics()
        self.counts = BoardCounts(self.board, self.statistics)

    def state(self, more: int) -> None:
        self.words[self.layout.states] += more

    def extra(self, more: int) -> None:
        self.words[self.layout.infos + board.EXTRA] += more

    def add(self, word: int, more: int = 1) -> None:
        self.words[self.layout.counts + word] += more

    def seen(self) -> tuple[int, int, int]:
        scope = self.statistics.scopes["x"]
        return scope.acquires, scope.releases, sum(scope.durations.counts)


@pytest.fixture
def written() -> Iterator[Written]:
    written = Written()
    yield written
    written.words.release()


def test_a_restart_that_is_half_written_counts_no_release_twice(written: Written) -> None:
    written.state(ENTER)
    written.counts.count()
    written.extra(-1)  # of a restart whose state is not stored yet
    written.counts.count(final=True)
    written.state(1 << board.DEPTH_BITS)
    written.counts.count()
    assert written.seen()[:2] == (2, 0)
    written.state(-1)
    written.counts.count(final=True)
    assert written.seen()[:2] == (2, 1)
    assert written.counts.absurd == 0


def test_a_block_that_is_left_while_its_slot_is_read_is_timed_once(written: Written) -> None:
    written.state(ENTER)
    written.add(board.DURATIONS + 3)  # of this block, which was left after the state was read
    written.counts.count()
    written.state(-1)
    written.counts.count(final=True)
    assert written.seen() == (1, 1, 1)
    written.state(ENTER - 1)  # a short one: nothing but its state tells of it
    written.counts.count(final=True)
    assert written.seen() == (2, 2, 2)
    assert written.counts.absurd == 0


def test_a_block_that_is_sorted_long_after_it_was_left_is_timed_once(written: Written) -> None:
    written.state(ENTER)
    written.state(-1)
    written.counts.count(final=True)  # by a server that has waited for its worker in vain
    assert written.seen() == (1, 1, 1)
    written.add(board.DURATIONS + 3)
    written.add(board.RATIOS + 2)
    written.add(board.DURATION_NS, 30_000_000)
    written.counts.count(final=True)
    assert written.seen() == (1, 1, 1)
    scope = written.statistics.scopes["x"]
    assert scope.durations.total == 0.03
    written.state(ENTER - 1)  # a short one
    BoardCounts(written.board, written.statistics).count(final=True)  # of another server
    assert written.seen() == (2, 2, 2)
    assert (scope.durations.counts[0], scope.durations.counts[3]) == (1, 1)
    assert (scope.ratios.counts[0], scope.ratios.counts[2]) == (1, 1)
    assert written.counts.absurd == 0


def test_counts_that_cannot_be_are_noted_and_harm_nobody(written: Written) -> None:
    written.state(ENTER - 1)
    written.extra((1 << 63) - 1)
    written.add(board.UNTIMED, -(1 << 63))
    written.counts.count(final=True)
    assert written.seen() == (1, 0, 0)
    assert written.counts.absurd > 0


def test_events_that_were_not_sent_are_counted_once_by_whichever_server(written: Written) -> None:
    written.words[board.LOST] += 3
    written.words[board.LOST_RELEASES] += 2
    written.counts.count()
    written.words[board.LOST_RELEASES] += 1
    BoardCounts(written.board, written.statistics).count()
    assert (written.statistics.lost_acquires, written.statistics.lost_releases) == (3, 3)
    written.words[board.LOST] = -5
    written.counts.count()
    assert (written.statistics.lost_acquires, written.counts.absurd) == (3, 1)
