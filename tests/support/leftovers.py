"""What a test leaves behind: threads of this process, and processes that were started from it."""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import threading
import time
from typing import NamedTuple

__all__ = ["Leftovers"]

_VARIABLE = "PYTEST_STARTED_BY"
_MARK = secrets.token_hex(8)
os.environ[_VARIABLE] = _MARK  # inherited by all that is started from here, however far down
_BOUND_SECONDS = 10.0
_COLLECT_SECONDS = 0.03
# One a program, for as long as it runs.
_OF_MULTIPROCESSING = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


class _Process(NamedTuple):
    pid: int
    start: str
    parent: int
    command: str


class Leftovers:
    """Compares what there is with what there was when this object was made.

    :param descendants: whether to look for orphans as well, which takes a look at all processes.
    """

    def __init__(self, *, descendants: bool) -> None:
        self._descendants = descendants
        self._threads = set(threading.enumerate())
        self._processes = {(each.pid, each.start) for each in self._running()}

    def found(self) -> list[str]:
        """Wait for what is about to end; describe the rest."""
        since = time.monotonic()
        collect_after = _COLLECT_SECONDS
        while left := [
            *(f"thread {each.name}" for each in _alive(self._new_threads())),
            *(f"process {each.pid}: {each.command}" for each in self._started()),
        ]:
            waited = time.monotonic() - since
            if waited > _BOUND_SECONDS:
                break
            if waited > collect_after:
                collect_after *= 10
                gc.collect()  # what a traceback that is shown no more still holds
            time.sleep(0.002)
        return left

    def _new_threads(self) -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each not in self._threads]

    def _started(self) -> set[_Process]:
        """What is new, except what something that was there before has started."""
        new = {each for each in self._running() if (each.pid, each.start) not in self._processes}
        owners = {pid for pid, _ in self._processes}
        while theirs := {each for each in new if each.parent in owners}:
            new -= theirs
            owners |= {each.pid for each in theirs}
        return new

    def _running(self) -> set[_Process]:
        pids = _children()
        if self._descendants:
            pids |= {int(name) for name in os.listdir("/proc") if name.isdigit() and _is_ours(name)}
        return {found for pid in pids if (found := _describe(pid)) is not None}


def _alive(threads: list[threading.Thread]) -> list[threading.Thread]:
    """Those that the kernel knows; Python keeps objects of some that ended in an odd way."""
    known = set(os.listdir("/proc/self/task")) if threads else set()
    return [each for each in threads if str(each.native_id) in known]


def _children() -> set[int]:
    """Children of this process, those that nobody has waited for included."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # none: after most tests one call says so
        return set()
    pids: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/children") as file:
            pids.update(map(int, file.read().split()))
    return pids


def _is_ours(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{_VARIABLE}={_MARK}".encode() in file.read().split(b"\0")
    except OSError:
        return False


def _describe(pid: int) -> _Process | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            name, _, fields = file.read().partition("(")[2].rpartition(") ")
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            command = file.read().replace("\0", " ").strip() or f"[{name}]"
    except OSError:
        return None
    if any(helper in command for helper in _OF_MULTIPROCESSING):
        return None
    return _Process(pid, fields.split()[19], int(fields.split()[1]), command)
