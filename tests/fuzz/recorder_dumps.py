"""Dumps of torch's Flight Recorder: any bytes, as JSON or as a pickle, up to the verdict on them.

The first byte of an input chooses the format. Whatever follows, it is read or refused, runs
nothing, and what was read can be compared with other ranks', told to people and sent in an event.
"""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING

from observability.hang.report import analyse
from observability.hang.text import render
from observability.recorder._read import from_json, from_pickle
from observability.recorder.json import from_plain, to_plain
from support.recorded import views

from .target import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from observability.recorder.types import Recording
    from observability.samples.types import WorkerView

    from .target import Try

__all__ = ["TARGET"]

MOST_BYTES = 64 << 20
"""Of memory, for an input of some kilobytes."""


def check_dump(others: list[WorkerView], data: bytes) -> None:
    """Everything that holds for any dump."""
    read = from_pickle if data[:1] > b"\x7f" else from_json
    tracemalloc.start()
    try:
        found = read(data[1:])
    except ValueError as error:
        str(error).encode()
        return
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MOST_BYTES
    _check_recording(found)
    report = analyse([replace(others[0], recording=found), *others[1:]])
    for line in render(report, width=100).split("\n"):
        assert line.isprintable(), line
        line.encode()
    json.dumps(report.to_dict(), allow_nan=False).encode()


def _check_recording(found: Recording) -> None:
    plain = json.dumps(to_plain(found), allow_nan=False)
    assert len(plain) < 100_000
    again = from_plain(json.loads(plain))
    assert again is not None
    for group in found.groups:
        numbers = [operation.number for operation in group.collectives]
        assert numbers == sorted(set(numbers))
        assert all(number > 0 for number in numbers)


@contextlib.contextmanager
def _open() -> Iterator[Try]:
    others = views("skip")
    yield lambda data: check_dump(others, data)


TARGET = Target("dumps of the flight recorder", _open, words=("recorder",))
