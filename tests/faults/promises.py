"""What the service promises, whatever happens to it: the columns of the matrix.

Each is a check of one :class:`~faults.observation.Observation`, in its strong form. A fault under
which a promise holds in a weaker form brings the check of that form along: see ``fault.py``.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .observation import Observation, WorkerSeen

__all__ = [
    "COUNTED",
    "EXPLAINED",
    "GOES_ON",
    "NOBODY_ELSE",
    "NOTHING_LEFT",
    "PROMISES",
    "REAPED",
    "STORY",
    "TOLD",
    "Promise",
    "told_in_the_log",
    "without_rejections",
]

STORY = ["timer expired", "stack dumped", "kill worker process"]


@dataclass(frozen=True)
class Promise:
    """One column."""

    name: str
    """In the id of its tests."""
    heading: str
    """In the table."""
    check: Callable[[Observation], None]
    """Fails (AssertionError) when it was broken."""


def _reaped(seen: Observation) -> None:
    assert seen.first.code == -signal.SIGKILL


def _nobody_else(seen: Observation) -> None:
    assert seen.bystander_lived
    assert seen.bystander.code == 0
    assert seen.count("timers_releases_total", scope="bystander") == seen.bystander.blocks
    assert seen.count("timers_expirations_total", scope="bystander") == 0
    assert seen.count("timers_reaps_total", scope="bystander") == 0


def _explained(seen: Observation) -> None:
    for worker in (seen.first, seen.second):
        [dump] = seen.named("stack dumped", worker.pid)
        _names(dump["frame"], worker)
        assert any(worker.frame in stack["frames"] for stack in dump["stack"])


def _names(frame: str, worker: WorkerSeen) -> None:
    assert frame == worker.frame


def _counted(seen: Observation) -> None:
    without_rejections(seen)
    assert seen.count("timers_requests_rejected_total") == 0


def without_rejections(seen: Observation) -> None:
    """All counts of the scenario but that of refused requests."""
    for name, expected in (("acquires", 2), ("releases", 0), ("expirations", 2), ("reaps", 2)):
        assert seen.count(f"timers_{name}_total", scope="stuck") == expected, name
    assert seen.count("timers_reaps_total", scope="stuck", outcome="killed") == 2
    for name in ("acquires", "releases"):
        counted = seen.count(f"timers_{name}_total", scope="bystander")
        assert counted == seen.bystander.blocks, name
    for name in ("timers_active", "timers_overdue", "timers_workers"):
        assert seen.count(name) == 0, name


def _told(seen: Observation) -> None:
    told_in_the_log(seen)
    assert seen.count("timers_events_dropped_total") == 0
    assert seen.count("timers_sink_errors_total") == 0


def told_in_the_log(seen: Observation) -> None:
    """The story of each reap, in order, and no line that is not whole."""
    for worker in (seen.first, seen.second):
        told = [line["event"] for line in seen.told(worker.pid)]
        assert [event for event in told if event in STORY] == STORY
        [kill] = seen.named("kill worker process", worker.pid)
        assert (kill["scope_id"], kill["outcome"]) == ("stuck", "killed")
    assert seen.torn == []


def _goes_on(seen: Observation) -> None:
    assert seen.open_meanwhile == ["bystander"]
    assert seen.second.code == -signal.SIGKILL
    assert seen.bystander.blocks > 1
    assert seen.health == {"/-/healthy": 200, "/-/ready": 200}


def _nothing_left(seen: Observation) -> None:
    assert seen.left_meanwhile == []
    assert seen.service.code == 0
    assert seen.left_behind == []


REAPED = Promise("the stuck worker is reaped", "Reaped", _reaped)
NOBODY_ELSE = Promise("nobody else is", "Nobody else", _nobody_else)
EXPLAINED = Promise("it is explained", "Explained", _explained)
COUNTED = Promise("it is counted", "Counted", _counted)
TOLD = Promise("it is told", "Told", _told)
GOES_ON = Promise("the service goes on", "Goes on", _goes_on)
NOTHING_LEFT = Promise("nothing is left", "Nothing left", _nothing_left)
PROMISES = (REAPED, NOBODY_ELSE, EXPLAINED, COUNTED, TOLD, GOES_ON, NOTHING_LEFT)
