"""Which workers have nothing to do: those of a pool, that wait for its next piece of work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .frames import is_python, library_path, plain_function

if TYPE_CHECKING:
    from .types import WorkerView

__all__ = ["is_idle"]

_LOOPS = frozenset({("ray/_private/worker.py", "main_loop")})
"""Where the main thread of such a worker is meanwhile, in C below it."""


def is_idle(view: WorkerView) -> bool:
    """Whether a worker only waits for work: it is in no block, has no rank, and is in such a loop.

    One with a rank may work in another thread, as those of Ray Train do.
    """
    if view.scope_id is not None or view.worker.rank is not None or view.dump is None:
        return False
    main = next((each for each in view.dump.threads if each.thread == view.dump.pid), None)
    frames = [frame for frame in main.frames if is_python(frame.file)] if main else []
    if not frames:
        return False
    return (library_path(frames[0].file), plain_function(frames[0].function)) in _LOOPS
