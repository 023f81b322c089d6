"""The stacks that were explained as events, the same that an expiry makes."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import TYPE_CHECKING

from observability.hang.json import extra_fields
from observability.sampling.process_facts import add_open_files
from timers.events import StackDumped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .job import Explained

__all__ = ["stacks_of"]


def stacks_of(explained: Explained, run_id: str) -> Iterator[StackDumped]:
    """Make a ``stack dumped`` for each worker."""
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
