"""What a process is in its framework, and at what: an actor, a task, with their ids.

A framework gives one process one piece of work after the other. The process writes down which
(:class:`Labels`) before it begins; whoever watches it reads that when the work gets stuck
(:func:`labels_of`).
"""

from __future__ import annotations

import json
import os
import re
import threading
from typing import TYPE_CHECKING, Any

from .notes import open_note, read_note

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Labels", "labels_of", "name_of"]

_KIND = "labels"
_MOST_BYTES = 8192
_MOST_THREADS = 16
_MOST_LABELS = 16
_LONGEST = 200
_KEY = re.compile(r"ray_[a-z_]{1,30}")
"""Labels stand beside the fields of events, and must not be taken for one of those."""


class Labels:
    """Writes the labels of this process. Safe from any thread; a forked child has its own file.

    :param directory: what ``TIMERS_RECORDER_DIR`` says; None for nowhere.
    """

    def __init__(self, directory: str | None) -> None:
        self._directory = directory
        self._pid = 0
        self._fd = -1
        self._described: tuple[str, Mapping[str, str]] | None = None
        self._head = ""
        self._threads: dict[int, str] = {}
        self._lock = threading.Lock()

    def write(
        self, name: str, process: Mapping[str, str], thread: int, work: Mapping[str, str]
    ) -> None:
        """Write what this process is, and what one of its threads begins. A few microseconds.

        :param name: what its framework's users call the process.
        :param process: labels of the process; names are those of :data:`_KEY`. The same object
            stands for the same labels.
        :param thread: its native id.
        :param work: labels of what the thread does, until it begins something else.
        :raises OSError: the file cannot be written.
        """
        if self._directory is None:
            return
        if self._pid != os.getpid():
            self._pid, self._threads, self._lock = os.getpid(), {}, threading.Lock()
            self._fd = open_note(self._directory, _KIND)
        with self._lock:
            if self._described is None or self._described[1] is not process:
                self._described = name, process
                self._head = json.dumps({"name": name, "process": process})[:-1]
            self._threads.pop(thread, None)
            self._threads[thread] = f'"{thread}": {json.dumps(work)}'
            while len(self._threads) > _MOST_THREADS:
                self._threads.pop(next(iter(self._threads)))
            line = self._line()
            if len(line) > _MOST_BYTES:
                self._threads = {thread: self._threads[thread]}
                line = self._line()
            # A reader takes one line; what follows is old.
            os.pwrite(self._fd, line[:_MOST_BYTES], 0)

    def _line(self) -> bytes:
        return f'{self._head}, "threads": {{{", ".join(self._threads.values())}}}}}\n'.encode()

    def done(self, thread: int) -> None:
        """Forget what a thread did; it is left in the file until something else begins."""
        self._threads.pop(thread, None)


def labels_of(pid: int, thread: int | None = None) -> dict[str, str]:
    """Return the labels that ``pid`` wrote: of the process, and of one of its threads.

    Never raises. Names begin with ``ray_``; values are the process's word, not fit to be shown.

    :param thread: its native id; None for the labels of the process alone.
    """
    plain = _read(pid)
    threads = plain.get("threads")
    work = threads.get(str(thread)) if isinstance(threads, dict) else None
    return _labels(plain.get("process")) | _labels(work)


def name_of(pid: int, environment: dict[str, str] | None = None) -> str | None:
    """Return what users of its framework call ``pid``, as it wrote; None where it did not.

    :param environment: of the process, where the caller has read it.
    """
    name = _read(pid, environment).get("name")
    return name[:_LONGEST] if isinstance(name, str) and name else None


def _read(pid: int, environment: dict[str, str] | None = None) -> dict[str, Any]:
    note = read_note(pid, _KIND, most=_MOST_BYTES, environment=environment)
    line = note.partition("\n")[0]
    try:
        plain = json.loads(line) if line else {}
    except (ValueError, RecursionError):
        return {}
    return plain if isinstance(plain, dict) else {}


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {
        name: text[:_LONGEST]
        for name, text in list(value.items())[:_MOST_LABELS]
        if isinstance(text, str) and text and _KEY.fullmatch(name)
    }
