"""``timers report``: any bytes as an event file.

The first byte of an input chooses the options, the rest is the file. Whatever is in it: a report or
one line that says what is wrong, never a traceback, and nothing that drives a terminal.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from typing import TYPE_CHECKING

from click.testing import CliRunner

from observability.report.command import NOBODY, SUSPECT, UNUSABLE, report

from .target import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .target import Try

__all__ = ["TARGET", "check_file"]

_OPTIONS = (
    (),
    ("--json",),
    ("--deadlines",),
    ("--deadlines", "--json"),
    ("--all",),
    ("--all", "--json", "--world-size", "4"),
    ("--html", "{}.html", "--all"),
    ("--run-id", "r"),
)
_DRIVES_TERMINALS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def check_file(path: str, data: bytes) -> None:
    """Everything that holds for any file, written to ``path``."""
    chosen = _OPTIONS[data[0] % len(_OPTIONS)] if data else ()
    with open(path, "wb") as file:
        file.write(data[1:])
    result = CliRunner().invoke(report, [*(word.format(path) for word in chosen), path])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (NOBODY, SUSPECT, UNUSABLE)
    assert not _DRIVES_TERMINALS.search(result.output), result.output
    if result.exit_code == UNUSABLE:
        assert "Error: " in result.stderr
        assert not result.stdout
    elif "--json" in chosen:
        json.loads(result.stdout, parse_constant=_no_constant)
    else:
        assert result.stdout.strip()


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@contextlib.contextmanager
def _open() -> Iterator[Try]:
    with tempfile.TemporaryDirectory() as directory:
        yield lambda data: check_file(f"{directory}/events.jsonl", data)


TARGET = Target(
    "event files of `timers report`",
    _open,
    words=("report",),
)
