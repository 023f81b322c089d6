"""The life of a server's engine, next to a model.

Each four bytes of an input are one thing that happens; :mod:`fuzz.engine_model` compares.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from .engine_model import EngineAgainstModel
from .target import Target
from .workers import Crowd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .target import Try

__all__ = ["SCOPES", "TARGET", "THREADS", "WORKERS"]

WORKERS = 3
THREADS = (None, 1, 2)
SCOPES = ("x", "y")
_SIGNALS = (9, 15, 0, -1)
_MS = 1_000_000
_TIMES_MS = (0, 1, 99, 101, 500, 999, 1000, 1001, 1500, 2500, 10_000, 60_000)
_MOST = 100
_ACQUIRES: tuple[dict[str, bool], ...] = (
    {},
    {},
    {},
    {"nested": True},
    {"leave": True},
    {"delayed": True},
)


def live(model: EngineAgainstModel, data: bytes) -> None:
    """Do what ``data`` says."""
    for start in range(0, min(len(data), 4 * _MOST) - 3, 4):
        what, who, long, more = data[start : start + 4]
        timer = (
            who % WORKERS,
            THREADS[who // WORKERS % len(THREADS)],
            SCOPES[who // (WORKERS * len(THREADS)) % len(SCOPES)],
        )
        after_ns, passed_ns = (_TIMES_MS[number % len(_TIMES_MS)] * _MS for number in (long, more))
        if what % 12 < 6:  # half of all
            how = _ACQUIRES[what % 12]
            delay_ns = passed_ns if how.get("delayed") else 0
            model.acquire(
                *timer,
                after_ns,
                _SIGNALS[more % len(_SIGNALS)],
                nested=how.get("nested", False),
                leave=how.get("leave", False),
                delay_ns=delay_ns,
            )
        else:
            _happen(model, what % 12, timer, passed_ns, more)


def _happen(
    model: EngineAgainstModel,
    what: int,
    timer: tuple[int, int | None, str],
    passed_ns: int,
    more: int,
) -> None:
    match what:
        case 6 | 7:
            model.release(*timer)
        case 8:
            model.release_late([timer], passed_ns)
        case 9:
            model.wait(passed_ns)
        case 10:
            model.step_wall_clock((more - 128) * 10.0)
        case _ if more % 8:
            model.clear(timer[0])
        case _:
            model.exit(timer[0])  # costs a process


@contextlib.contextmanager
def _open() -> Iterator[Try]:
    crowd = Crowd(WORKERS)

    def try_one(data: bytes) -> None:
        model = EngineAgainstModel(crowd)
        try:
            live(model, data)
        finally:
            model.close()

    try:
        yield try_one
    finally:
        crowd.close()


TARGET = Target("engine against a model", _open, longest=4 * _MOST)
