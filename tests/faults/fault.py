"""One fault: how it is brought about in a scenario, and which promises it weakens to what."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from .story import play, stuck_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .observation import Observation, WorkerSeen
    from .promises import Promise
    from .stage import Stage

__all__ = ["Fault", "Weaker"]


@dataclass(frozen=True)
class Weaker:
    """The form in which a promise is kept under a fault."""

    words: str
    """For its cell of the table, a few words."""
    check: Callable[[Observation], None]
    """Fails (AssertionError) when not even that was kept."""


class Fault:
    """One row of the matrix. Subclasses are the faults; their instances stand in ``FAULTS``.

    Played in one process and judged in several: what a check needs has to be in the observation,
    whose ``notes`` are for that, and not in the fault.

    The scenario is that of ``story.py``, with what the hooks make of it. A fault that needs
    another one overrides :meth:`play`.
    """

    name: str
    """In the table and in the ids of its tests."""
    weaker: Mapping[Promise, Weaker] = MappingProxyType({})
    """The promises that are not kept in their strong form."""
    transports = ("socket", "pipe")
    """By which way the first and the second worker that gets stuck come."""

    def unavailable(self) -> str | None:
        """Why this machine (or this user) cannot have this fault; None when it can."""
        return None

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        """Before the service starts, and after it ended: arguments, environment, wrappers."""
        del stage
        yield

    def strike(self, stage: Stage) -> None:
        """When the service serves and the bystander is in its block, before anybody is stuck."""

    def first(self, stage: Stage) -> WorkerSeen:
        """The worker that gets stuck while the fault is there, and what becomes of it."""
        return stuck_worker(stage, socket=self.transports[0] == "socket")

    def second(self, stage: Stage) -> WorkerSeen:
        """The one that does so afterwards."""
        return stuck_worker(stage, socket=self.transports[1] == "socket")

    def between(self, stage: Stage) -> None:
        """When the first worker has been reaped (or not), before the second starts."""

    def relieve(self, stage: Stage) -> None:
        """When the second has been reaped, before the account is taken: the fault may end."""

    def finish(self, stage: Stage) -> None:
        """When the account has been taken, before the service is asked to end."""

    def ended(self, stage: Stage) -> None:
        """When the service has ended, before its files are looked at."""

    def play(self, stage: Stage) -> Observation:
        """The scenario."""
        return play(stage, self)
