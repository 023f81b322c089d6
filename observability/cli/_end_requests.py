"""How insistently the command was asked to end: pure bookkeeping, no signals and no clock.

Decision: what comes by kill(2) (a scheduler, a service manager, a person with ``kill``) means that
the run is to end: the second such signal sets the command a deadline, the third is one. Ctrl-C at
the terminal may as well mean something to the command, such as "stop this cell" to a Python
prompt, and the command gets each of them without us. There the second one within some seconds only
makes us say what a third would do.
"""

from __future__ import annotations

import math

SAME_SECONDS = 0.2
"""Two in such a short time are one: timeout(1), for one, signals its child and then the group."""
INSIST_SECONDS = 5.0
"""Two presses of Ctrl-C further apart have nothing to do with each other."""
MEANT_SECONDS = 60.0
"""A command that ends so soon after Ctrl-C has ended because of it."""
_SECOND = 2


class EndRequests:
    """Counts SIGINT and SIGTERM. All times are seconds of one monotonic clock.

    :param grace: seconds between the second request and the kill.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._count = 0
        self._last = -math.inf
        self._by_kill = False
        self.deadline = math.inf
        """When the command is to be killed."""

    def add(self, now: float, *, from_terminal: bool) -> bool:
        """Take note of one; true when the person at the terminal should be told what is next."""
        apart, self._last = now - self._last, now
        self._by_kill = self._by_kill or not from_terminal
        if apart < SAME_SECONDS:
            return False
        if from_terminal and apart > INSIST_SECONDS:
            self._count = 0
        self._count += 1
        if self._count > _SECOND:
            self.deadline = min(self.deadline, now)
        elif self._count == _SECOND and not from_terminal:
            self.deadline = min(self.deadline, now + self._grace)
        return self._count == _SECOND and from_terminal

    def explain(self, now: float) -> bool:
        """Whether a command that ended at ``now`` did so because it was asked to."""
        return self._by_kill or now - self._last < MEANT_SECONDS
