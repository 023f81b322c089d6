"""What is registered is reset in a forked child, whatever else fails there."""

from __future__ import annotations

import gc
import sys
from typing import Any

from support.children import FORKS, in_child
from timers.forks import reset_in_child


class Thing:
    def __init__(self, log: list[str], *, fails: bool = False) -> None:
        self.log = log
        self.fails = fails
        reset_in_child(self)

    def after_fork(self) -> None:
        self.log.append("reset")
        if self.fails:
            raise KeyError("mine")


@FORKS
def test_each_living_thing_is_reset_once_in_the_child_alone() -> None:
    log: list[str] = []
    kept, forgotten = Thing(log), Thing(log)
    del forgotten
    gc.collect()
    assert in_child(lambda: log == ["reset"])
    assert (log, kept.fails) == ([], False)


@FORKS
def test_one_that_fails_keeps_no_other_from_being_reset() -> None:
    log: list[str] = []
    shown: list[Any] = []
    things = [Thing(log, fails=fails) for fails in (True, False, True)]
    hook, sys.unraisablehook = sys.unraisablehook, shown.append
    try:
        assert in_child(lambda: log == ["reset"] * 3 and len(shown) == 1)
    finally:
        sys.unraisablehook = hook
    assert len(things) == 3
