"""What a worker gets from ``timers run`` besides its timers. Standard library only.

``timers run`` puts ``site/`` on the job's PYTHONPATH; whatever Python the job starts then waits for
torch, Ray and mpi4py, and gets blocks around what they do: ordinary ones, that report and kill
nobody.

The map::

    site/                what is on PYTHONPATH: a sitecustomize that goes on to the next one
    _bootstrap.py        wait for a module to be imported, at next to no cost
    hooks.py             which hooks there are, and the modules that they go into
    _steps.py            steps of an optimizer, batches of a DataLoader
    _groups.py           process groups and collectives
    _ray.py              tasks and methods of actors
    _mpi.py              calls of MPI that wait for other ranks
    _blocks.py           open and close such a block, and never harm what it is in
    _chosen.py           deadlines that somebody chose
    learned.py           deadlines that follow from how long blocks took before
    _worker_server.py    start torch's worker server, so that the flight recorder can be asked
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ._chosen import AFTER_VARIABLE, chosen_text
from ._worker_server import RECORDER_VARIABLE, start_worker_server

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ACTION_VARIABLE",
    "AUTO_VARIABLE",
    "KILL_CHOSEN",
    "KINDS",
    "RECORDER_VARIABLE",
    "auto_environment",
    "start_worker_server",
]

AUTO_VARIABLE = "TIMERS_AUTO"
"""Which kinds there shall be: with commas between them, "all" or "off"."""
ACTION_VARIABLE = "TIMERS_AUTO_ACTION"
"""What the expiry of an automatic block does to the worker: "kill", or :data:`KILL_CHOSEN`;
anything else reports only."""
KILL_CHOSEN = "kill-chosen"
"""To kill only where somebody chose the deadline, and not where it was learned."""

KINDS = ("step", "batch", "collective", "checkpoint", "group", "task", "mpi")
"""Of automatic blocks."""
_SITE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "site")
"""The folder for PYTHONPATH."""


def auto_environment(
    environ: Mapping[str, str],
    kinds: str,
    *,
    kill: bool,
    only_chosen: bool = False,
    after: Mapping[str, float] | None = None,
) -> dict[str, str]:
    """Return the variables to set, where ``environ`` is what the job has otherwise.

    :param kinds: with commas between them, "all" or "off".
    :param kill: whether the expiry of an automatic timer ends the worker.
    :param only_chosen: whether it does so only where the deadline is one of ``after``.
    :param after: deadlines in seconds by scope or by kind, in place of learned ones.
    :raises ValueError: one of these is not more than 0 seconds, or more than a week.
    """
    ends = KILL_CHOSEN if only_chosen else "kill"
    action = {AUTO_VARIABLE: kinds, ACTION_VARIABLE: ends if kill else "report"}
    if after:
        action[AFTER_VARIABLE] = chosen_text(after)
    if kinds == "off":
        return action
    before = environ.get("PYTHONPATH")  # with nothing behind a colon it has the current directory
    return {**action, "PYTHONPATH": f"{_SITE}{os.pathsep}{before}" if before else _SITE}
