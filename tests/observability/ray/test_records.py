"""What is said of a reap to whoever gets the error: before the kill, and when it is over."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from observability.ray._records import Records
from observability.story import ExplainedKill, Stories, Story
from support.samples import DUMP, stack_dumped
from timers.events import Outcome, TimerInfo, WorkerInfo
from timers.linux.labels import Labels

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ME = WorkerInfo(pid=os.getpid(), name="actor Loader 'first'")


def timer(signal: int = 9) -> TimerInfo:
    return TimerInfo(
        scope_id="Loader.fetch",
        expiration_time=0,
        after_seconds=2,
        signal=signal,
        thread=threading.get_native_id(),
    )


@pytest.fixture
def said() -> list[Mapping[str, str]]:
    return []


@pytest.fixture
def records(said: list[Mapping[str, str]]) -> Records:
    return Records(said.append, Stories(), host="vm/1a2b")


def test_it_is_recorded_before_the_kill_with_the_ids_of_ray(
    records: Records,
    said: list[Mapping[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "timers.linux.procfs.environment", lambda _: {"TIMERS_RECORDER_DIR": str(tmp_path)}
    )
    work = {"ray_task_id": "t", "ray_attempt": "1"}
    Labels(str(tmp_path)).write("x", {"ray_actor_id": "a"}, threading.get_native_id(), work)
    records(replace(stack_dumped(), worker=ME, timer=timer()))
    (found,) = said
    assert (found["task_id"], found["actor_id"], found["attempt"]) == ("t", "a", "1")
    assert found["said"].startswith(
        "timers: Loader.fetch (attempt 1) was reaped on vm/1a2b (actor Loader 'first', pid "
    )
    assert "because it took more than 2 s, stuck at " in found["said"]


def test_who_is_only_sampled_or_observed_is_not_recorded(
    records: Records, said: list[Mapping[str, str]]
) -> None:
    sampled = replace(DUMP, extras=(("expired", False),))
    records(replace(stack_dumped(sampled), worker=ME, timer=timer()))
    records(replace(stack_dumped(), worker=ME, timer=timer(0)))
    records(replace(stack_dumped(), worker=ME, timer=None))
    assert said == []


def test_it_is_recorded_when_it_is_over(records: Records, said: list[Mapping[str, str]]) -> None:
    records(
        ExplainedKill(
            timestamp=0,
            worker=WorkerInfo(pid=7),
            timer=timer(),
            elapsed_seconds=2,
            signal=9,
            outcome=Outcome.KILLED,
            story=Story(frame="/job/a.py:1 f", labels={"ray_task_id": "t"}),
        )
    )
    (found,) = said
    assert found["task_id"] == "t"
    assert found["said"] == (
        "timers: Loader.fetch was reaped on vm/1a2b (pid 7), because it took more than 2 s,"
        " stuck at /job/a.py:1 f."
    )
