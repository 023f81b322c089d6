"""Reads the event files of the service while they are written and rotated."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

__all__ = ["EventFiles", "Exit"]


class Exit(NamedTuple):
    """A ``worker exited`` event."""

    pid: int
    status: int | None
    """As far as it was told; negative for a signal."""


class EventFiles:
    """What was written to ``path``, and to the files that were moved away from there.

    Every line has to be a JSON object: anything else raises.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.http_address: str | None = None
        self.names: Counter[str] = Counter()
        """How many events of each name there were."""
        self.expired: Counter[str] = Counter()
        self.warned: Counter[str] = Counter()
        """By scope."""
        self.killed: Counter[str] = Counter()
        """By worker and outcome."""
        self.explained: Counter[str] = Counter()
        """Stacks of expired workers, by worker."""
        self.exits: list[Exit] = []
        self.rejected: Counter[str] = Counter()
        """Lines that were spoken of, by reason."""
        self.gravest: list[str] = []
        """Messages of level error that are about the service itself."""
        self._waited_for: Counter[tuple[str, int, str]] = Counter()
        self._open: list[BufferedReader] = []
        self._rests: dict[int, bytes] = {}
        self._current: BufferedReader | None = None
        self._rotations = 0

    def poll(self) -> None:
        """Take up what was written since the last time."""
        if self._current is None:
            with contextlib.suppress(FileNotFoundError):
                self._current = open(self.path, "rb")  # noqa: SIM115  # closed by close()
                self._open.append(self._current)
        for file in self._open:
            data = self._rests.pop(file.fileno(), b"") + file.read()
            *lines, rest = data.split(b"\n")
            if rest:
                self._rests[file.fileno()] = rest
            for line in lines:
                self._take(json.loads(line))

    def move_away(self) -> None:
        """Rename the file; who writes it has to be told."""
        self.poll()  # from now on it is open, if there is one
        self._rotations += 1
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(self.path.with_suffix(f".{self._rotations}.jsonl"))
        self._current = None

    def happened(self, name: str, pid: int, scope: str) -> bool:
        """Whether there was such an event that nobody has asked for yet."""
        key = (name, pid, scope)
        if self._waited_for[key] <= 0:
            return False
        self._waited_for[key] -= 1
        return True

    def close(self) -> None:
        """Close the files."""
        for file in self._open:
            file.close()
        self._open.clear()

    def _take(self, event: dict[str, Any]) -> None:
        name, pid = event["event"], event.get("worker_pid", 0)
        self.names[name] += 1
        if name == "timer expired":
            self.expired[event["scope_id"]] += 1
            self._waited_for[name, pid, event["scope_id"]] += 1
        elif name == "timer warning":
            self.warned[event["scope_id"]] += 1
            self._waited_for[name, pid, event["scope_id"]] += 1
        elif name == "kill worker process":
            self.killed[f"{pid}: {event['outcome']}"] += 1
        elif name == "stack dumped" and event.get("expired", True):
            self.explained[str(pid)] += 1
        elif name == "worker exited":
            signal = event.get("exit_signal")
            self.exits.append(Exit(pid, event.get("exit_code") if signal is None else -signal))
        elif name == "request rejected":
            self.rejected[event["reason"]] += 1 + event.get("suppressed", 0)
        elif name == "notice" and " serves http://" in f" {event['message']}":
            self.http_address = event["message"].rpartition("http://")[2]
        elif name in ("notice", "log") and event["level"] in ("warning", "error"):
            self.gravest.append(str(event)[:500])
