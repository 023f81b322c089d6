"""What was explained as events, the same that an expiry makes."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import TYPE_CHECKING

from observability.events import HangReported
from observability.hang.json import extra_fields
from observability.sampling.process_facts import add_open_files
from timers.events import StackDumped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timers.events import Event

    from .job import Explained

__all__ = ["events_of"]


def events_of(explained: Explained, run_id: str) -> Iterator[Event]:
    """Make a ``stack dumped`` for each worker, and the ``hang report`` last."""
    now = time.time()
    named = {each.pid for each in explained.report.suspects}
    for view in explained.views:
        if view.samples:
            extras = {"expired": False, **extra_fields(view, innocent=view.worker.pid not in named)}
            dump = add_open_files(view.samples[-1].dump)
            yield StackDumped(
                timestamp=now,
                run_id=run_id,
                worker=view.worker,
                timer=None,
                elapsed_seconds=math.nan,
                dump=dataclasses.replace(dump, extras=tuple(extras.items())),
            )
    yield HangReported(timestamp=now, run_id=run_id, report=explained.report)
