"""Read event files: JSON lines, of one or of many hosts, possibly cut, rotated or mixed up."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from observability.untrusted import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import BinaryIO

__all__ = ["Events", "UnusableError", "of_one_run", "read_files", "seconds"]

MAX_SHOWN_RUNS = 5
MAX_SHOWN_LINE = 80
MAX_LINE_BYTES = 16 << 20
"""What is longer is no event: ours are a thousandth of it."""


class UnusableError(Exception):
    """The input cannot be reported on; the message says why and what to do."""


@dataclass(slots=True)
class Events:
    """What was read."""

    events: list[dict[str, Any]] = field(default_factory=list)
    """In the order of their time, each with the key ``event``."""
    skipped: int = 0
    """Lines that are no events."""
    first_skipped: str = ""
    """Where the first of them is, and how it begins."""


def read_files(paths: Sequence[str]) -> Events:
    """Read all ``paths``; ``-`` is standard input.

    Lines that are not events, as a cut last one, are counted and left out.

    :raises UnusableError: a file cannot be read, or there is no event in any of them.
    """
    found = Events()
    for path in paths:
        try:
            if path == "-":
                _read(sys.stdin.buffer, "standard input", found)
            else:
                with open(path, "rb") as file:
                    _read(file, path, found)
        except OSError as error:
            raise UnusableError(f"cannot read {path}: {error.strerror or error}") from error
    if not found.events:
        what = f"; the first line that is none is {found.first_skipped}" if found.skipped else ""
        raise UnusableError(
            f"no event in {', '.join(paths)}{what}: expected JSON lines, as written by "
            "'timers run --events FILE'"
        )
    found.events.sort(key=lambda event: seconds(event) or 0.0)
    return found


def _read(file: BinaryIO, name: str, found: Events) -> None:
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            event = json.loads(line) if len(line) < MAX_LINE_BYTES else None
        except (ValueError, RecursionError):
            event = None
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            found.events.append(event)
            continue
        found.skipped += 1
        if not found.first_skipped:
            start = line.strip()[:MAX_SHOWN_LINE].decode("utf-8", "replace")
            found.first_skipped = f"{name}:{number}: {printable(start)}"


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of ``file``; of one that is too long its start."""
    while line := file.readline(MAX_LINE_BYTES):
        yield line
        while len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES)


def seconds(event: dict[str, Any]) -> float | None:
    """When an event was, in seconds since the epoch; None when it does not say."""
    text = event.get("timestamp")
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


def of_one_run(events: Iterable[dict[str, Any]], run_id: str | None) -> list[dict[str, Any]]:
    """Those events that belong to one run.

    :param run_id: which; without it there must be only one.
    :raises UnusableError: it is not there, or there are several to choose from.
    """
    chosen = list(events)
    runs = list(dict.fromkeys(str(event["run_id"]) for event in chosen if event.get("run_id")))
    if run_id is None and len(runs) > 1:
        raise UnusableError(
            f"the files hold {len(runs)} runs ({_some(runs)}): name one with --run-id"
        )
    if run_id is not None and run_id not in runs:
        raise UnusableError(f"no run {run_id!r} in the files; there is {_some(runs) or 'none'}")
    wanted = run_id if run_id is not None else next(iter(runs), None)
    return [event for event in chosen if str(event.get("run_id", wanted)) == str(wanted)]


def _some(runs: Sequence[str]) -> str:
    shown = ", ".join(printable(run) for run in runs[:MAX_SHOWN_RUNS])
    return f"{shown} and {len(runs) - MAX_SHOWN_RUNS} more" if len(runs) > MAX_SHOWN_RUNS else shown
