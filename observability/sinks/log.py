"""Events as log lines through structlog: JSON for machines, readable on a terminal.

Only this module imports structlog, and it leaves structlog's global configuration alone: a program
that embeds the server keeps its own.

One line is one flat JSON object in ASCII, at most
:data:`~observability.sinks.bounded.MAX_LINE_BYTES` long, written with one ``write``. Run
:class:`LogSink` behind a pipeline: writing may block.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from observability.events import LogRecord, Notice
from observability.fields import to_fields
from observability.untrusted import encodable, printable, replaced, this_host

from ._dumps import DumpDirectory
from ._line_file import LineFile
from ._terminal import Screen
from .bounded import MAX_LINE_BYTES, encode, fit, size
from .filters import LEVELS, EventFilter
from .otel_names import to_otel

if TYPE_CHECKING:
    from collections.abc import Collection, MutableMapping

    from timers.events import Event

    Fields = MutableMapping[str, Any]

__all__ = ["LEVELS", "NAMES", "LogSink"]

NAMES = ("plain", "otel")
"""How fields are named: as in events, or as in OpenTelemetry's log data model."""
_NOT_FOR_EYES = ("run_id", "host", "expiration_time")
"""The same in each line of a terminal, or seconds since the epoch."""
_SPOKEN = (Notice.name, LogRecord.name)
"""Events that are nothing but their message; in others it repeats the fields."""
_FIRST = ("event", "level", "timestamp", "run_id", "host", "message")


class LogSink:
    """Writes one line for each event.

    :param target: a path (file or FIFO), or ``"-"`` for standard error.
    :param level: with ``include`` and ``exclude``, which events: see :class:`.EventFilter`.
    :param run_id: for events that carry none.
    :param host: by default this machine's name.
    :param dump_directory: where a stack that is too large for a line goes as a whole; the line
        then names the file in ``stack_file``. Without it such a stack is only shortened.
    :param terminal: whether to render for reading; by default when ``target`` is a terminal.
    :param verbose: whether a terminal is shown every event with all of its fields, rather than
        five lines for a reap and one for what else matters.
    :param names: one of :data:`NAMES`; a terminal has the plain ones.
    :param name: of the sink; unique in its pipeline.
    :raises ValueError: for an unknown ``level`` or ``names``.
    :raises OSError: the target or the dump directory cannot be opened.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] = "-",
        *,
        level: str = "info",
        include: Collection[str] = (),
        exclude: Collection[str] = (),
        run_id: str = "",
        host: str | None = None,
        dump_directory: str | os.PathLike[str] | None = None,
        terminal: bool | None = None,
        verbose: bool = False,
        names: str = "plain",
        name: str = "log",
    ) -> None:
        if names not in NAMES:
            raise ValueError(f"unknown names of fields {names!r}: use one of {', '.join(NAMES)}")
        self.name = name
        self._events = EventFilter(level, include, exclude)
        self.wants_requests = self._events.wants_requests
        self._in_otel = names == "otel"
        self._service = os.environ.get("OTEL_SERVICE_NAME") or "timers"
        self._run_id = run_id
        self._host = this_host() if host is None else host
        self._dumps = None if dump_directory is None else DumpDirectory(dump_directory)
        self._file = LineFile(None if target == "-" else Path(target))
        if terminal is None:
            terminal = self._file.is_terminal
        colors = "NO_COLOR" not in os.environ
        self._screen: Screen | None = None
        if terminal and not verbose:
            self._screen = Screen(colors=colors, chatty=level == "debug")
        self._in_otel &= not terminal
        self._logger = structlog.wrap_logger(
            _Lines(self._file),
            processors=[_in_order, self._bounded, *_renderers(terminal=terminal, colors=colors)],
            wrapper_class=structlog.BoundLogger,
            context_class=dict,
            cache_logger_on_first_use=True,
        )

    def __call__(self, event: Event) -> None:
        """Write ``event``, if the filters let it pass.

        :raises OSError: the line could not be written.
        """
        if self._events.passes(event):
            fields = to_fields(event, run_id=self._run_id, host=self._host)
            if self._screen is not None:
                wanted = event.name in self._events.included
                width = self._file.columns
                text = self._screen.text(event, fields, width, wanted=wanted)
                if text:
                    self._file.write(encodable(text).encode())
                return
            log = getattr(self._logger, event.level)
            log(fields.pop("event"), **fields)

    def reopen(self) -> None:
        """Open the path anew before the next line: for SIGHUP, after the file was rotated away."""
        self._file.reopen()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _bounded(self, _logger: Any, _method: str, fields: Fields) -> Fields:
        whole = dict(fields)
        named = self._named(whole)
        if size(named) <= MAX_LINE_BYTES:
            return named
        where = {}
        if self._dumps is not None and "stack" in whole:
            try:
                where = {"stack_file": str(self._dumps.write(whole))}
            except OSError as error:
                where = {"stack_file_error": str(error)}
        # Ahead of the stack, so that whoever reads the line finds it.
        whole = {**replaced(where, str, encodable), **whole}
        room = MAX_LINE_BYTES
        while size(named := self._named(fit(whole, room))) > MAX_LINE_BYTES:
            room -= size(named) - MAX_LINE_BYTES  # the other names are longer
        return named

    def _named(self, fields: dict[str, Any]) -> dict[str, Any]:
        return to_otel(fields, service=self._service) if self._in_otel else fields


class _Lines:
    """What structlog calls a logger: takes rendered text, whatever its level."""

    def __init__(self, file: LineFile) -> None:
        self._file = file

    def debug(self, text: str) -> None:
        self._file.write(text.encode() + b"\n")

    info = warning = error = debug


def _renderers(*, terminal: bool, colors: bool) -> list[Any]:
    if not terminal:
        return [structlog.processors.JSONRenderer(allow_nan=False)]
    return [
        _readable,
        structlog.dev.ConsoleRenderer(
            colors=colors,
            sort_keys=False,
            exception_formatter=structlog.dev.plain_traceback,
        ),
    ]


def _in_order(_logger: Any, _method: str, fields: Fields) -> Fields:
    leading = {name: fields[name] for name in _FIRST if name in fields}
    return leading | dict(fields)


def _readable(_logger: Any, _method: str, fields: Fields) -> Fields:
    """For eyes: the stack as indented text below the line, nothing that could move the cursor."""
    readable: Fields = {}
    for name, value in fields.items():
        if name in _NOT_FOR_EYES or (name == "message" and fields.get("event") not in _SPOKEN):
            continue
        if name == "stack":
            readable[name] = "\n".join(line for thread in value for line in _thread_lines(thread))
        elif isinstance(value, list):
            readable[name] = printable(encode(value))
        else:
            readable[name] = printable(value) if isinstance(value, str) else value
    return readable


def _thread_lines(thread: dict[str, Any]) -> list[str]:
    title = ["  thread", str(thread.get("thread", "?")), thread.get("name", "")]
    title += ["(holds the GIL)"] if thread.get("holds_gil") else []
    return [
        printable(" ".join(word for word in title if word)),
        *(f"    {printable(frame)}" for frame in thread["frames"]),
    ]
