"""Learn how long the scopes of a job take, from what a server counts, and keep it for the next run.

Workers turn it into deadlines (:mod:`timers.auto.learned`). Learned are uses after the warm-up, by
the bucket of their duration. A use that was under way when something went wrong (a timer expired,
a worker was reaped or died, the job stood still) may have waited for that, and teaches nothing.
Which use that may have been is not known, only in which span of time it ended and how long it took
at most: what could have been is left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from timers.events import ReapFailed, TimerExpired, WorkerExited, WorkerKilled
from timers.server.statistics import DURATION_BUCKETS, OTHER

from .events import JobMoves, JobStalled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timers.events import Event
    from timers.server.statistics import Statistics

__all__ = ["Learner", "Learning", "learned_path"]

_SPAN_SECONDS = 30.0
_VERSION = 1
_MOST_FILES = 100
_MOST_SCOPES = 200
_MOST_BYTES = 1 << 20
_MOST_WRONG = 1000
_MOST_SECONDS = 7 * 24 * 3600
_WRONG = (TimerExpired, WorkerKilled, ReapFailed, JobStalled, JobMoves)


@dataclass(slots=True)
class _Span:
    """What was counted from one moment to another."""

    began: float
    ended: float
    counts: dict[str, list[int]]
    """By scope, uses in each bucket."""
    longest: dict[str, float]
    """By scope, no use took longer than this; seconds."""


@dataclass(slots=True)
class _Known:
    uses: int = 0
    longest_seconds: float = 0.0


@dataclass(slots=True)
class Learning:
    """What is known of the scopes of a job; moments are on any one clock, in seconds."""

    known: dict[str, _Known] = field(default_factory=dict)
    _wrong: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_WRONG))
    _before: dict[str, list[int]] = field(default_factory=dict)
    _last: float | None = None
    _pending: _Span | None = None
    """Learned from one span later: what went wrong in it may be known a moment after its end."""

    def went_wrong(self, at: float) -> None:
        """Note when something happened that others may have waited for."""
        self._wrong.append(at)

    def look(self, statistics: Statistics, at: float) -> None:
        """Take note of what has been counted up to now, and learn from the span before."""
        statistics.collect()
        counts, longest = {}, {}
        for scope_id, scope in statistics.scopes.items():
            if scope_id == OTHER:
                continue
            pairs = zip(scope.durations.counts, scope.warm_up.counts, strict=True)
            total = [everything - first for everything, first in pairs]
            before = self._before.get(scope_id, [0] * len(total))
            counts[scope_id] = [new - old for new, old in zip(total, before, strict=True)]
            longest[scope_id] = scope.longest_steady
            self._before[scope_id] = total
        began = at if self._last is None else self._last
        self.learn()
        self._last, self._pending = at, _Span(began, at, counts, longest)

    def learn(self) -> None:
        """Learn from the last span, too."""
        span, self._pending = self._pending, None
        if span is None:
            return
        for scope_id, counts in span.counts.items():
            bounds = (*DURATION_BUCKETS, span.longest[scope_id])
            for bound, count in zip(bounds, counts, strict=True):
                took = min(bound, span.longest[scope_id])
                if count > 0 and not self._may_have_waited(span, took):
                    self._add(scope_id, count, took)

    def _may_have_waited(self, span: _Span, took: float) -> bool:
        return any(span.began - took <= at <= span.ended for at in self._wrong)

    def _add(self, scope_id: str, count: int, took: float) -> None:
        if scope_id not in self.known and len(self.known) >= _MOST_SCOPES:
            return
        known = self.known.setdefault(scope_id, _Known())
        known.uses += count
        known.longest_seconds = max(known.longest_seconds, took)

    # -- what is kept -------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data for JSON."""
        scopes = {scope_id: asdict(known) for scope_id, known in self.known.items()}
        return {"version": _VERSION, "scopes": scopes}

    def remember(self, kept: object) -> None:
        """Go on with what an earlier run has kept; anything that is not that is left out."""
        scopes = kept.get("scopes") if isinstance(kept, dict) else None
        for scope_id, entry in scopes.items() if isinstance(scopes, dict) else ():
            uses = entry.get("uses") if isinstance(entry, dict) else None
            longest = entry.get("longest_seconds") if isinstance(entry, dict) else None
            if not isinstance(uses, int) or not isinstance(longest, int | float):
                continue
            if uses > 0 and 0 <= longest <= _MOST_SECONDS:
                self._add(scope_id, uses, float(longest))


class Learner:
    """A sink and a thread that keep a file of what was learned, from :meth:`start` to :meth:`stop`.

    :param path: of the file, which need not exist. What cannot be read or written is done without.
    :param is_one_of_many: whether the folder is for such files alone: the newest hundred are kept.
    """

    name = "learner"

    def __init__(self, path: str, *, is_one_of_many: bool = False) -> None:
        self._path = path
        self._is_one_of_many = is_one_of_many
        self._learning = Learning()
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._statistics: Statistics | None = None
        self._thread = threading.Thread(target=self._run, name="timers-learner", daemon=True)
        with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
            self._learning.remember(json.loads(file.read(_MOST_BYTES)))

    def __call__(self, event: Event) -> None:
        """Note whether something went wrong."""
        died = isinstance(event, WorkerExited) and (event.exit_code or event.exit_signal)
        if died or isinstance(event, _WRONG):
            with self._lock:
                self._learning.went_wrong(event.timestamp)

    def start(self, statistics: Statistics) -> None:
        """Begin to learn from ``statistics``."""
        self._statistics = statistics
        self._thread.start()

    def stop(self) -> None:
        """Learn from the rest. To be called once every event has been delivered; idempotent."""
        if self._ending.is_set() or self._thread.ident is None:
            return
        self._ending.set()
        self._thread.join()
        self._look()
        with self._lock:
            self._learning.learn()
        self._write()

    def _run(self) -> None:
        self._look()
        while not self._ending.wait(_SPAN_SECONDS):
            self._look()
            self._write()

    def _look(self) -> None:
        assert self._statistics is not None  # noqa: S101  # it was started
        with self._lock:
            self._learning.look(self._statistics, time.time())

    def _write(self) -> None:
        with self._lock:
            text = json.dumps(self._learning.to_dict())
            if not self._learning.known:
                return
        with contextlib.suppress(OSError):
            folder = os.path.dirname(self._path)
            os.makedirs(folder, mode=0o700, exist_ok=True)
            if not os.path.exists(self._path) and self._is_one_of_many:
                _forget_oldest(folder)
            temporary = f"{self._path}.{os.getpid()}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(temporary, flags, 0o600), "w") as file:
                file.write(text)
            os.replace(temporary, self._path)


def learned_path(directory: os.PathLike[str], command: Sequence[str]) -> str:
    """Return where what is learned of ``command`` is kept: the same for a restart of it.

    Another directory or other arguments make another job.
    """
    where = ""
    with contextlib.suppress(OSError):  # the directory was deleted
        where = os.getcwd()
    what = json.dumps([where, *command])
    name = hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return os.path.join(directory, "learned", f"{name}.json")


def _forget_oldest(folder: str) -> None:
    """Make room for one more file."""
    entries = [entry for entry in os.scandir(folder) if entry.name.endswith(".json")]
    entries.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_mtime)
    for entry in entries[: -_MOST_FILES + 1]:
        os.unlink(entry.path)
