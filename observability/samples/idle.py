"""Which workers have nothing to do: those of a pool, that wait for its next piece of work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .frames import waits_for_work
from .threads import main_thread, working_thread

if TYPE_CHECKING:
    from .types import WorkerView

__all__ = ["is_idle"]


def is_idle(view: WorkerView) -> bool:
    """Whether a worker only waits for work: no thread is in a block, or in code of the job.

    One with a rank is a part of its job in any case.
    """
    if view.scope_id is not None or view.worker.rank is not None or view.dump is None:
        return False
    main = main_thread(view.dump)
    if main is None or not waits_for_work(main.frames):
        return False
    return working_thread(view.dump, main) is None
