"""What one process did, by its own account, in a file of its own.

A line is the whole account so far, and the last one counts. One write(2) of it outlives any way of
dying. It is written where the process rests: before the acquire that will get it reaped (nobody is
reaped for an acquire that was not sent), and inside the block in which it will be killed or end,
before it says that it is there. So no account is ever a guess.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Account", "Child", "Journal", "read_journals"]

_COUNTED = ("acquires", "releases", "left", "expirations", "warnings", "rejected")


@dataclass
class Child:
    """A process that another one forked, and how it ended (negative: by that signal)."""

    pid: int
    planned: int
    seen: int


@dataclass
class Account:
    """Totals of one process, by scope (and of rejected lines, by reason)."""

    acquires: Counter[str] = field(default_factory=Counter)
    releases: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    """Blocks that were entered and left."""
    expirations: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    reaped: tuple[str, str] | None = None
    """The scope that it is going to be reaped for, and the outcome."""
    at_work: str | None = None
    """A scope whose last request was going to be sent when the process was killed."""
    ghosts: list[int] = field(default_factory=list)
    """Pids of processes that had ended when requests in their name were sent."""
    children: list[Child] = field(default_factory=list)
    pair: str = ""
    pid: int = 0
    worker: int = 0
    """The number of its episode, which its forked children share."""

    def add(self, other: Account) -> None:
        """Take over what a thread counted on its own."""
        for name in _COUNTED:
            getattr(self, name).update(getattr(other, name))

    def entered(self, scope: str, times: int = 1) -> None:
        """So many acquires."""
        self.acquires[scope] += times

    def left_again(self, scope: str, times: int = 1) -> None:
        """So many blocks ended by a release each."""
        self.releases[scope] += times
        self.left[scope] += times


class Journal:
    """The file of one process. A forked child needs one of its own."""

    def __init__(self, directory: str, worker: int) -> None:
        self._worker = worker
        self._pid = os.getpid()
        path = os.path.join(directory, f"{worker}-{self._pid}.journal")
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, account: Account) -> None:
        """Make ``account`` what counts from now on."""
        account.pid, account.worker = self._pid, self._worker
        # Not asdict(), which is no good for counters (before Python 3.12).
        found = {**vars(account), "children": [vars(child) for child in account.children]}
        data = json.dumps(found).encode() + b"\n"
        if os.write(self._fd, data) != len(data):
            raise OSError(f"the journal of process {self._pid} was cut: is the disk full?")


def read_journals(directory: Path) -> list[Account]:
    """The last account of each process that wrote one, by worker and pid."""
    accounts = []
    for path in directory.glob("*.journal"):
        lines = path.read_text().splitlines()
        if lines:
            accounts.append(_account(json.loads(lines[-1])))
    return sorted(accounts, key=lambda account: (account.worker, account.pid))


def _account(found: dict[str, object]) -> Account:
    account = Account(**found)  # type: ignore[arg-type]  # what asdict() wrote
    for name in _COUNTED:
        setattr(account, name, Counter(getattr(account, name)))
    account.reaped = tuple(account.reaped) if account.reaped else None  # type: ignore[assignment]  # JSON has lists
    account.children = [Child(**child) for child in account.children]  # type: ignore[arg-type]  # likewise
    return account
