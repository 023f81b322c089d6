"""The least of one value for each slot: in C as in Python, whatever a worker has written."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timers.accelerator import least_in_c
from timers.server.boards._board import least
from timers.transport.board import NONE

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST = -(2**63)
in_c = least_in_c()
needs_it = pytest.mark.skipif(in_c is None, reason="it is turned off, or was not built")
WORDS = st.one_of(
    st.sampled_from([LEAST, LEAST + 1, -1, 0, 1, NONE - 1, NONE]), st.integers(LEAST, NONE)
)


@needs_it
@given(
    st.lists(WORDS, min_size=1, max_size=80),
    st.integers(0, 20),
    st.integers(1, 5),
    st.integers(0, 20),
    st.integers(0, 20),
)
def test_it_is_the_same(words: list[int], first: int, step: int, leads: int, count: int) -> None:
    assert in_c is not None
    memory = memoryview(array("q", words))
    if count and (first + (count - 1) * step >= len(words) or leads + count > len(words)):
        with pytest.raises(IndexError):
            in_c(memory, first, step, leads, count)
        return
    found = least(memory, first, step, leads, count)
    # What fits in no word is as far away as one can say, which is all the same to a server.
    assert in_c(memory, first, step, leads, count) == max(LEAST, min(found, NONE))


@needs_it
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((0, 1, 0), TypeError),
        ((0, 1, 0, -1), IndexError),
        ((-1, 1, 0, 1), IndexError),
        ((0, 0, 0, 1), IndexError),
        ((0, 1, -1, 1), IndexError),
        ((0, 2**62, 0, 2), IndexError),
        ((2**64, 1, 0, 1), OverflowError),
        ((0, 1, 0, 2**62), IndexError),
        (("0", 1, 0, 1), TypeError),
    ],
)
def test_what_is_not_on_the_board_is_not_read(
    arguments: tuple[int, ...], error: type[Exception]
) -> None:
    call: Callable[..., int] | None = in_c
    assert call is not None
    with pytest.raises(error):
        call(memoryview(array("q", [1, 2, 3])), *arguments)
    with pytest.raises(TypeError):
        call("words", 0, 1, 0, 1)


def test_none_without_slots() -> None:
    memory = memoryview(array("q", [5]))
    for one in filter(None, (least, in_c)):
        assert one(memory, 0, 1, 0, 0) == NONE
