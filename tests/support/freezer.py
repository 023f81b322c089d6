"""The freezer of cgroup v1: a process in it sleeps uninterruptibly (D), SIGKILL or not.

The one of v2 (cgroup.freeze) lets a frozen process be killed, as SIGSTOP does.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Freezer", "freezer_root"]


def freezer_root() -> Path | None:
    """Where this user can make frozen groups; None where that is not possible."""
    with open("/proc/self/mounts") as file:
        for line in file:
            _, path, kind, options, *_ = line.split()
            if kind == "cgroup" and "freezer" in options.split(",") and os.access(path, os.W_OK):
                return Path(path)
    return None


class Freezer:
    """One group; processes are frozen and thawed together."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    @contextlib.contextmanager
    def made(cls, root: Path) -> Iterator[Freezer]:
        """A new group; whoever is left in it is thawed and moved out at the end."""
        path = Path(tempfile.mkdtemp(prefix="timers-test-", dir=root))
        freezer = cls(path)
        try:
            yield freezer
        finally:
            freezer.thaw()
            eventually(lambda: freezer._leave(root), "the group is empty")

    def freeze(self, pids: Iterable[int]) -> None:
        """Add these processes, and see all of them stop."""
        for pid in pids:
            (self._path / "cgroup.procs").write_text(str(pid))
        self._state("FROZEN")

    def thaw(self) -> None:
        """Let them run."""
        self._state("THAWED")

    def _state(self, wanted: str) -> None:
        state = self._path / "freezer.state"
        state.write_text(wanted)
        eventually(lambda: state.read_text().strip() == wanted, wanted)

    def _leave(self, root: Path) -> bool:
        for pid in (self._path / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):  # it has ended
                (root / "cgroup.procs").write_text(pid)
        with contextlib.suppress(OSError):  # busy for a moment
            self._path.rmdir()
            return True
        return False
