"""What is said where a reaped worker's launcher and user look, before it is killed.

torchrun says ``Signal 9 (SIGKILL)`` of a failed job and no more, unless the worker left a
note in the file that ``TORCHELASTIC_ERROR_FILE`` names. A killed worker cannot: it is written for
it; and one line goes to its own standard error, where its user looks.

What a worker says of itself (a path, a descriptor) is not trusted: this process may be allowed more
than it. A note is a new file in a directory of the worker's own user, reached without any link; of
its standard error only what that user owns is written to. Nothing here waits for a pipe's reader.
File systems may: run it with a bound (:func:`timers.bounded.call_until`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import time
from functools import partial
from typing import TYPE_CHECKING

from timers.bounded import call_until
from timers.linux import procfs
from timers.linux.labels import name_of
from timers.linux.ranks import ranks_of

from .fields import stack_fields
from .untrusted import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timers.server.reaper import BeforeKill
    from timers.stacks.dump import StackDump

    from .hang.types import Suspect
    from .story import Stories, Story

__all__ = ["ERROR_FILE_VARIABLE", "WorkerNotes", "write_error_file", "write_to_stderr"]

_logger = logging.getLogger(__name__)

ERROR_FILE_VARIABLE = "TORCHELASTIC_ERROR_FILE"
_MOST_CHARACTERS = 2000
_LONGEST_PATH = 4096
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_TERMINALS = (4, 5, *range(136, 144))
"""Numbers of the kernel's drivers of consoles and pseudo-terminals (devices.txt)."""
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


_MOST_SECONDS = 1.0
_LEAST_SECONDS = 0.2
"""Of the time until a kill, for one note: even when the hang report took all there was."""


class WorkerNotes:
    """A step before a kill that adds notes for the worker's launcher and user to another step.

    :param step: the step that finds out where workers are; see
        :data:`timers.server.reaper.BeforeKill`.
    :param stories: what has been said of the workers that expired.
    :param own_is_enough: whether a worker's user sees what this process writes to its stderr.
    """

    def __init__(self, step: BeforeKill, stories: Stories, *, own_is_enough: bool) -> None:
        self._step = step
        self._stories = stories
        self._own_is_enough = own_is_enough

    def before_kill(
        self, run_id: str, expired_timers: dict[int, list[str]], *, until: float
    ) -> object:
        """Do the other step, then write the notes of those that are going to be killed."""
        dumps = self._step(run_id, expired_timers, until=until)
        found = dumps if isinstance(dumps, dict) else {}
        for pid, requests in expired_timers.items():
            try:
                self._write(pid, requests, found.get(pid), until)
            except Exception as error:  # noqa: BLE001  # no note is worth a kill that does not come
                _logger.debug("no note for worker %s: %s", pid, error)
        return dumps

    def _write(self, pid: int, requests: list[str], dump: StackDump | None, until: float) -> None:
        timers = [json.loads(request) for request in requests]
        signalled = [timer for timer in timers if timer["signal"] > 0]
        known = self._stories.of_pid(pid)
        if not signalled or known is None or procfs.start_time(pid) != known[0]:
            return
        first = min(signalled, key=lambda timer: float(timer["expiration_time"]))
        accused = _accused(pid, known[1])
        reason = _reason(accused, known[1], dump, str(first["scope_id"]))
        where = f" More: {known[1].where}" if known[1].where else ""
        rank = ranks_of(pid).rank
        who = (name_of(pid) or f"worker {pid}") if rank is None else f"rank {rank}"
        line = f"timers: {who} is reaped: {reason}{where}"
        # Of those that are killed together, the one that holds up the others failed first.
        moment = float(first["expiration_time"]) if accused else time.time()
        for write in (
            partial(write_to_stderr, pid, line, own_is_enough=self._own_is_enough),
            partial(write_error_file, pid, f"reaped by timers: {reason}{where}", moment=moment),
        ):
            now = time.monotonic()
            bound = min(now + _MOST_SECONDS, max(until, now + _LEAST_SECONDS))
            with contextlib.suppress(OSError):  # TimeoutError is one
                call_until(bound, write, f"timers-note-{pid}")


def _accused(pid: int, story: Story) -> Suspect | None:
    suspects = story.hang.suspects if story.hang else ()
    return next((each for each in suspects if each.pid == pid), None)


def _reason(accused: Suspect | None, story: Story, dump: StackDump | None, scope: str) -> str:
    if accused is not None and accused.frame:
        text = f"stuck at {accused.frame}"
    else:
        frame = stack_fields(dump, None)["frame"] if dump else None
        text = f"it overran {scope}" + (f" at {frame}" if frame else "")
    why = f" {story.hang.sentence}" if story.hang else ""
    return f"{text}.{why}"


def write_error_file(pid: int, text: str, *, moment: float) -> bool:
    """Leave ``text`` for the launcher of ``pid``, in the form that torch's ``record`` writes.

    A file that is there is left as it is: what the worker itself had to say matters more.

    :param moment: seconds since the epoch at which the worker failed. torchrun takes the worker
        that failed first for the root cause.
    :returns: whether it was written; not when the launcher names no file, or none that may be used.
    :raises OSError: it may not be written there, or the worker is gone.
    """
    path = procfs.environment(pid).get(ERROR_FILE_VARIABLE, "")
    if not path.startswith("/") or len(path) > _LONGEST_PATH:
        return False
    callstack = printable(text[:_MOST_CHARACTERS])
    note = {
        "message": callstack,
        "extraInfo": {"timestamp": str(int(moment)), "py_callstack": callstack},
    }
    user = os.stat(f"/proc/{pid}").st_uid
    with _directory(path) as directory:
        if os.fstat(directory).st_uid != user:
            return False
        try:
            file = os.open(os.path.basename(path), _NEW, 0o600, dir_fd=directory)
        except FileExistsError:
            return False
    try:
        os.write(file, json.dumps({"message": note}).encode())
        if os.geteuid() != user:
            os.fchown(file, user, -1)
    finally:
        os.close(file)
    return True


@contextlib.contextmanager
def _directory(path: str) -> Iterator[int]:
    """Open the directory of ``path``, one step after the other: each could be a link."""
    steps = path.split("/")[1:-1]
    current = os.open("/", _DIRECTORY)
    try:
        for step in filter(None, steps):
            following = os.open(step, _DIRECTORY, dir_fd=current)
            os.close(current)
            current = following
        yield current
    finally:
        os.close(current)


def write_to_stderr(pid: int, line: str, *, own_is_enough: bool = False) -> bool:
    """Write a line to the standard error of ``pid``: a terminal, a pipe or a file.

    :param line: without its newline; what could drive a terminal is written out.
    :param own_is_enough: whether to leave it out where this process has the same standard error.
    :returns: whether it was written; not to anything else, and not to a pipe that is full.
    :raises OSError: it cannot be opened or written, or the worker is gone.
    """
    # The descriptor first, then all questions about it: what the number means may change.
    held = os.open(f"/proc/{pid}/fd/2", os.O_PATH | os.O_CLOEXEC)
    try:
        found, user = os.fstat(held), os.stat(f"/proc/{pid}").st_uid
        if os.geteuid() != user and found.st_uid != user:
            return False
        kind = stat.S_IFMT(found.st_mode)
        shared = os.path.samestat(found, os.fstat(2))
        if (shared and own_is_enough) or not (
            kind in (stat.S_IFREG, stat.S_IFIFO)
            or (kind == stat.S_IFCHR and os.major(found.st_rdev) in _TERMINALS)
        ):
            return False
        # A file that we write to as well has one position for both, which appending would not move.
        plain = shared and kind == stat.S_IFREG
        file = os.dup(2) if plain else os.open(f"/proc/self/fd/{held}", _APPEND)
    finally:
        os.close(held)
    try:
        data = (printable(line)[:_MOST_CHARACTERS] + "\n").encode("utf-8", "backslashreplace")
        return os.write(file, data) == len(data)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
