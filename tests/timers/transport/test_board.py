"""Where everything lies on a board."""

from __future__ import annotations

import subprocess
import sys

import pytest

from timers.transport import board
from timers.worker import scopes

SHOW = """
import mmap, sys
mmap.PAGESIZE = int(sys.argv[1])
from timers.transport import board
layout = board.Layout()
print(board.LOOK, layout.deadlines, layout.size % mmap.PAGESIZE)
"""


@pytest.mark.parametrize("page", [4096, 16_384, 65_536])
def test_words_lie_in_the_same_places_whatever_the_size_of_a_page(page: int) -> None:
    """Pages have 64 KiB on some machines with aarch64; ``expires`` knows one place by itself."""
    shown = subprocess.check_output([sys.executable, "-c", SHOW, str(page)], text=True)
    assert shown.split() == [str(scopes._LOOK), str(board.HEADER_WORDS), "0"]
    assert scopes._LOOK == board.LOOK
