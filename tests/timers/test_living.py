"""A weak set that anybody may change while it is looked through."""

from __future__ import annotations

import gc
import os

import pytest

from support.each_line import at_each_line
from timers.living import Living

pytestmark = pytest.mark.unit


class Thing:
    """Can be referred to weakly."""


def test_members_are_known_for_as_long_as_they_live() -> None:
    things = [Thing() for _ in range(3)]
    known: Living[Thing] = Living()
    for thing in (*things, things[0]):
        known.add(thing)
    assert set(known.members()) == set(things)
    assert len(known.members()) == 3
    known.discard(things.pop())
    known.discard(Thing())
    assert set(known.members()) == set(things)
    del things, thing
    gc.collect()
    assert known.members() == []


def test_what_is_added_at_any_moment_disturbs_nobody() -> None:
    known: Living[Thing] = Living()
    first = Thing()
    known.add(first)
    added: list[Thing] = []

    def add() -> None:
        added.append(Thing())
        known.add(added[-1])

    with at_each_line(add):
        found = known.members()
        known.discard(first)
    assert first in found
    assert len(added) > 3
    assert set(known.members()) == set(added)


def test_what_ends_at_any_moment_disturbs_nobody() -> None:
    known: Living[Thing] = Living()
    things = [Thing() for _ in range(10)]
    for thing in things:
        known.add(thing)
    last = things[-1]
    del thing

    def end() -> None:
        if len(things) > 1:
            del things[0]

    with at_each_line(end):
        found = known.members()
    assert last in found
    assert len(things) < 9
    found.clear()
    gc.collect()
    assert set(known.members()) == set(things)


def test_a_child_knows_what_its_parent_knew() -> None:
    known: Living[Thing] = Living()
    things = [Thing(), Thing()]
    for thing in things:
        known.add(thing)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if set(known.members()) == set(things) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
