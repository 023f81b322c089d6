"""Events are plain data with names, levels and fields that others rely on."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from support.samples import TIMER, WORKER, all_events
from timers import events
from timers.events import Event, Outcome, WorkerExited
from timers.testing import RecordingObserver

CLASSES: list[type[Event]] = [
    found
    for found in (getattr(events, name) for name in events.__all__)
    if isinstance(found, type) and issubclass(found, Event) and found is not Event
]

# What logs, alerts and dashboards are written against.
CONTRACT = {
    "watchdog started": "info",
    "watchdog stopped": "info",
    "timer acquired": "debug",
    "timer released": "debug",
    "timer warning": "warning",
    "timer expired": "warning",
    "stack dumped": "warning",
    "kill worker process": "error",
    "reap failed": "error",
    "worker exited": "info",
    "request rejected": "warning",
}


def test_names_and_levels() -> None:
    assert {kind.name: kind.default_level for kind in CLASSES} == CONTRACT
    assert len(CLASSES) == len(CONTRACT)


def test_the_samples_have_one_of_each() -> None:
    assert {type(event) for event in all_events()} == set(CLASSES)


@pytest.mark.parametrize("event", all_events(), ids=lambda event: event.name)
def test_an_event_is_a_value(event: Event) -> None:
    assert event.level in ("debug", "info", "warning", "error")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.timestamp = 0.0  # type: ignore[misc]  # what is tried here
    with pytest.raises((AttributeError, TypeError)):
        object.__setattr__(event, "more", 1)
    assert hash(event) == hash(copy.deepcopy(event))
    for twin in (copy.deepcopy(event), pickle.loads(pickle.dumps(event))):
        assert twin == event
        assert twin is not event
    assert dataclasses.replace(event, run_id="other") != event
    assert event.name in CONTRACT


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.name)
def test_fields_are_given_by_name_and_hold_plain_values(kind: type[Event]) -> None:
    with pytest.raises(TypeError):
        kind(1.0)  # type: ignore[call-arg]  # positional, which would fix their order for ever
    plain = (int, float, str, bool, tuple, type(None), Outcome)
    for event in all_events():
        if isinstance(event, kind):
            for field in dataclasses.fields(event):
                value = getattr(event, field.name)
                assert isinstance(value, plain) or dataclasses.is_dataclass(value)


def test_a_worker_that_died_in_a_block_is_a_warning() -> None:
    assert WorkerExited(timestamp=1.0, worker=WORKER).level == "info"
    assert WorkerExited(timestamp=1.0, worker=WORKER, timers=((TIMER, 1.0),)).level == "warning"


def test_outcomes_are_the_words_of_the_metrics() -> None:
    assert {outcome.value: outcome.failed for outcome in Outcome} == {
        "killed": False,
        "escalated": False,
        "already_gone": False,
        "error": False,
        "still_alive": True,
        "not_permitted": True,
    }
    assert f"{Outcome.KILLED}" == "killed"


INSTANTS = ("timestamp", "expiration_time")


def test_durations_say_their_unit() -> None:
    for kind in [*CLASSES, events.TimerInfo, events.WorkerInfo]:
        for field in dataclasses.fields(kind):
            if field.type == "float":
                assert field.name in INSTANTS or field.name.endswith("_seconds"), field.name


def test_what_we_ship_for_tests_is_an_observer() -> None:
    observer: events.Observer = RecordingObserver()
    for event in all_events():
        observer.emit(event)
    assert observer.flush(0.0)
