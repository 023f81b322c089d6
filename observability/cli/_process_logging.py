"""What libraries and our own modules log, put on stderr: readable, or as JSON lines like events.

From a thread of its own, so that a stderr that nobody reads holds up nobody who logs.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
from typing import TYPE_CHECKING

from observability.events import LogRecord
from observability.fields import to_fields
from observability.sinks.bounded import fit
from timers.server.event_queue import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from timers.events import Event

__all__ = ["log_to_stderr"]

STANDARD_ERROR = 2
_CAPACITY = 1000
_CLOSE_SECONDS = 1.0


def log_to_stderr(*, as_json: bool, run_id: str) -> None:
    """Send the standard :mod:`logging` of this process, from WARNING on, to stderr.

    :param as_json: one JSON object a line, so that a reader of stderr needs one parser.
    :param run_id: put into each line.
    """
    write = _as_json if as_json else _as_text
    dispatcher = Dispatcher(write, name="process-log", capacity=_CAPACITY)
    atexit.register(dispatcher.close, _CLOSE_SECONDS)
    handler = _Handler(dispatcher.emit, run_id)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


class _Handler(logging.Handler):
    def __init__(self, emit: Callable[[Event], None], run_id: str) -> None:
        super().__init__()
        self._emit_event = emit
        self._run_id = run_id

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record."""
        self._emit_event(
            LogRecord(
                timestamp=record.created,
                run_id=self._run_id,
                severity="error" if record.levelno >= logging.ERROR else "warning",
                logger=record.name,
                message=_message(record),
                exception=logging.Formatter().formatException(record.exc_info)
                if record.exc_info
                else None,
            )
        )


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  # somebody's arguments do not fit somebody's format
        return f"{record.msg} {record.args}"


def _as_json(event: Event) -> None:
    fields = to_fields(event, host=socket.gethostname())
    os.write(STANDARD_ERROR, (json.dumps(fit(fields)) + "\n").encode())


def _as_text(event: Event) -> None:
    if isinstance(event, LogRecord):
        text = "\n".join(filter(None, (f"timers: {event.message}", event.exception)))
        os.write(STANDARD_ERROR, f"{text}\n".encode("utf-8", "backslashreplace"))
