"""Read event files: JSON lines, of one or of many hosts, possibly cut, rotated or mixed up.

Nothing is kept but where the wanted lines are: a gigabyte of events, most of which no report needs,
is read twice rather than held once.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import tempfile
from array import array
from collections import Counter, defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from observability.sinks.otel_names import from_otel
from observability.untrusted import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from typing import IO, BinaryIO

MAX_SHOWN_RUNS = 5
MAX_SHOWN_LINE = 80
MAX_LINE_BYTES = 16 << 20
"""What is longer is no event: ours are a thousandth of it."""
_FEW_EVENTS = 3
_MADE_UP = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
"""A name that a watchdog gave a run for want of a better one: it tells nothing apart."""
_TOGETHER_SECONDS = 300.0
"""Watchdogs of one job start within this time."""
_NOISE = 10
"""With fewer events that say when they were, and so many times more other lines, a file is
something else that has some in it: a document, say."""


class UnusableError(Exception):
    """The input cannot be reported on; the message says why and what to do."""


class EventFiles(contextlib.ExitStack):
    """The events of one run in some files. Closing it closes the files.

    :param paths: ``-`` is standard input.
    :param wanted: names of the events that are read again by :meth:`events`.
    :param run_id: which run; without it there must be only one.
    :param each: called with every event, in the order in which they are read.
    :raises UnusableError: a file cannot be read, there is no event in any of them, or not those of
        one run.
    """

    def __init__(
        self,
        paths: Sequence[str],
        wanted: Collection[str],
        run_id: str | None = None,
        each: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self.skipped = 0
        """Lines that are no events, as a cut last one."""
        self.first_skipped = ""
        """Where the first of them is, and how it begins."""
        self._wanted, self._run_id, self._each = wanted, run_id, each
        self._runs: Counter[str] = Counter()
        self._hosts: defaultdict[str, set[str]] = defaultdict(set)
        self._count = self._dated = 0
        self._files: list[IO[bytes]] = []
        self._times = array("d")
        self._places = array("q")
        """Where a line begins, times the number of files, plus which file."""
        try:
            for path in paths:
                self._read(path, len(paths))
            self._check(paths)
        except BaseException:
            self.close()
            raise

    @property
    def run_id(self) -> str:
        """The run that the events are of; empty when none says so."""
        return self._run_id or next(iter(self._runs), "")

    def events(self) -> Iterator[dict[str, Any]]:
        """Read the wanted events, in the order of their time."""
        count = len(self._files)
        order: Sequence[int] = range(len(self._times))
        if any(self._times[index] < self._times[index - 1] for index in order[1:]):
            order = sorted(order, key=self._times.__getitem__)
        for index in order:
            start, number = divmod(self._places[index], count)
            file = self._files[number]
            file.seek(start)
            # One that was written anew meanwhile has something else there.
            event = _event(file.readline(MAX_LINE_BYTES))
            if event is not None:
                yield event

    def _read(self, path: str, files: int) -> None:
        try:
            if path == "-":
                file: BinaryIO = sys.stdin.buffer
            else:
                file = self.enter_context(open(path, "rb"))  # noqa: SIM115  # closed with the stack
            copy = None
            if path == "-" or not file.seekable():
                copy = self.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # likewise
            self._files.append(copy or file)
            for number, (start, line) in enumerate(_lines(file), 1):
                if line.strip():
                    self._take(start, line, files, copy, f"{path}:{number}")
        except OSError as error:
            raise UnusableError(f"cannot read {path}: {error.strerror or error}") from error

    def _take(
        self, start: int, line: bytes, files: int, copy: IO[bytes] | None, where: str
    ) -> None:
        event = _event(line)
        if event is None:
            self.skipped += 1
            if not self.first_skipped:
                begin = line.strip()[:MAX_SHOWN_LINE].decode("utf-8", "replace")
                self.first_skipped = f"{where}: {printable(begin)}"
            return
        at = seconds(event)
        self._count += 1
        self._dated += at is not None
        if event.get("run_id"):
            self._runs[str(event["run_id"])] += 1
            self._hosts[str(event["run_id"])].add(str(event.get("host")))
        if self._run_id is not None and str(event.get("run_id", self._run_id)) != self._run_id:
            return
        self._each(event)
        if event["event"] in self._wanted:
            if copy is not None:  # not to be read twice: what is wanted is written down
                start = copy.tell()
                copy.write(line.rstrip(b"\n") + b"\n")
            self._times.append(at or 0.0)
            self._places.append(start * files + len(self._files) - 1)

    def _check(self, paths: Sequence[str]) -> None:
        few = self._dated < _FEW_EVENTS and self.skipped >= _NOISE * self._count
        if few or not self._count:
            what = f"; the first line that is none is {self.first_skipped}" if self.skipped else ""
            few_or_no = "too few events" if self._count else "no event"
            raise UnusableError(
                f"not event files, {few_or_no} in {', '.join(paths)}{what}: expected JSON lines, as"
                " written by 'timers run --events FILE'"
            )
        if self._run_id is not None and self._run_id not in self._runs:
            raise UnusableError(
                f"no run {self._run_id!r} in the files; there is {_some([*self._runs]) or 'none'}"
            )
        if self._run_id is None and len(self._runs) > 1 and not self._are_one_job():
            raise UnusableError(
                f"the files hold {len(self._runs)} runs ({_some([*self._runs])}): name one with"
                " --run-id"
            )

    def _are_one_job(self) -> bool:
        """Whether the runs are those of several hosts that had no name for their common job."""
        if not all(_MADE_UP.fullmatch(run) for run in self._runs):
            return False
        hosts = [host for run in self._runs for host in self._hosts[run]]
        starts = [datetime.strptime(run[:16], "%Y%m%dT%H%M%SZ") for run in self._runs]  # noqa: DTZ007  # all are in UTC
        apart = (max(starts) - min(starts)).total_seconds()
        return len(set(hosts)) == len(hosts) and apart <= _TOGETHER_SECONDS


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line) if len(line) < MAX_LINE_BYTES else None
    except (ValueError, RecursionError):
        return None
    if isinstance(event, dict) and "EventName" in event:
        event = from_otel(event)
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Where each line of ``file`` begins, and the line; of one that is too long its start."""
    start = 0
    while line := file.readline(MAX_LINE_BYTES):
        yield start, line
        start += len(line)
        while len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES)
            start += len(line)


def seconds(event: dict[str, Any]) -> float | None:
    """When an event was, in seconds since the epoch; None when it does not say."""
    text = event.get("timestamp")
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _some(runs: Sequence[str]) -> str:
    shown = ", ".join(printable(run) for run in runs[:MAX_SHOWN_RUNS])
    return f"{shown} and {len(runs) - MAX_SHOWN_RUNS} more" if len(runs) > MAX_SHOWN_RUNS else shown
