"""The loop around a line, and what it does: works, asks, or neither."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from observability.samples.types import Loop
from observability.sampling._source import source_at

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """\
import os, time

def poll(path):
    while not os.path.exists(os.path.join(path, "done")):
        time.sleep(0.1)

def poll_with_a_bound(event):
    while True:
        if event.is_set():
            break

def nap():
    while True:
        time.sleep(1)

def train(batches):
    for batch in batches:
        batch.step()
    while batches:
        batches.pop().step()
    while time.time() < 5:
        batches = batches @ batches
    total = [each for each in batches]
    return total

def outer(path):
    while not os.path.exists(path):
        def inner():
            return path
"""
LINES = {
    5: (Loop.ASKING, "time.sleep(0.1)", 'while not os.path.exists(os.path.join(path, "done")):'),
    9: (Loop.ASKING, "if event.is_set():", "while True:"),
    14: (Loop.WHILE, "time.sleep(1)", "while True:"),
    18: (Loop.BOUNDED, "batch.step()", "for batch in batches:"),
    20: (Loop.WHILE, "batches.pop().step()", "while batches:"),
    22: (Loop.WHILE, "batches = batches @ batches", "while time.time() < 5:"),
    23: (Loop.BOUNDED, "total = [each for each in batches]", None),
    24: (Loop.NONE, "return total", ""),
    29: (Loop.NONE, "return path", ""),
    99: (Loop.NONE, "", ""),
}


@pytest.mark.parametrize("line", LINES)
def test_the_loop_around_a_line(line: int, tmp_path: Path) -> None:
    file = tmp_path / "job.py"
    file.write_text(SOURCE)
    found = source_at(os.getpid(), str(file), line)
    assert found is not None
    loop, text, head = LINES[line]
    assert (found.loop, found.text) == (loop, text)
    assert head is None or found.head == head


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    me = os.getpid()
    assert source_at(me, str(tmp_path / "missing.py"), 1) is None
    assert source_at(me, "<string>", 1) is None
    assert source_at(2**22 + 1, __file__, 1) is None
    os.mkfifo(tmp_path / "pipe.py")
    assert source_at(me, str(tmp_path / "pipe.py"), 1) is None
    for text in ("while (", "\0", "(" * 5000):
        (tmp_path / "odd.py").write_text(text)
        assert source_at(me, str(tmp_path / "odd.py"), 1) is None
    (tmp_path / "large.py").write_text("#\n" * 400_000)
    assert source_at(me, str(tmp_path / "large.py"), 1) is None


def test_a_name_relative_to_the_process_is_found_there(tmp_path: Path) -> None:
    assert source_at(os.getpid(), os.path.relpath(__file__), 1) is not None
    assert source_at(os.getpid(), str(tmp_path), 1) is None
