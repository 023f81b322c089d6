"""What suits a process that does nothing but serve timers, and not one that embeds a server."""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import logging
import os
import resource
import sys
from typing import TYPE_CHECKING

from observability.events import LogRecord
from observability.fields import to_fields
from observability.service import write_line
from observability.sinks.bounded import fit
from observability.untrusted import this_host
from timers.server.observers.event_queue import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from timers.events import Event

_SWITCH_SECONDS = 0.0005
"""The thread that reads requests asks for the interpreter again after each packet. A thread that
computes (a scrape, a hang report) gives it away after this time; by default after 5 ms."""
_COLLECTIONS = (10_000, 50, 100)
"""Timers make no reference cycles, and looking through a million of them takes seconds, in which no
deadline is kept. All objects are looked through after 50 million more have been made."""
_LOG_CAPACITY = 1000
_LOG_CLOSE_SECONDS = 1.0


def keep_standard_streams() -> None:
    """Occupy descriptors 0 to 2 with /dev/null where they were closed at the start (``2>&-``).

    Otherwise the next file or pipe that is opened gets such a number, and what is meant for stderr
    is written into it. They are closed on exec, so a command that is started finds them as we did.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # open(2) takes the lowest free number, which is this one: all below are in use.
            os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)


def devote_process() -> None:
    """Adjust this process to its work; once, before or after its threads are started.

    What it starts later inherits the limit of open files.
    """
    # Two descriptors a worker: the usual soft limit of 1024 would do for 500.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTIONS)


def log_to_stderr(*, as_json: bool, run_id: str) -> None:
    """Send the standard :mod:`logging` of this process, from WARNING on, to stderr.

    From a thread of its own, so that a stderr that nobody reads holds up nobody who logs.

    :param as_json: one JSON object a line, so that a reader of stderr needs one parser.
    """
    write = _write_json if as_json else _write_text
    dispatcher = Dispatcher(write, name="process-log", capacity=_LOG_CAPACITY)
    atexit.register(dispatcher.close, _LOG_CLOSE_SECONDS)
    handler = _Handler(dispatcher.emit, run_id)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


class _Handler(logging.Handler):
    def __init__(self, emit: Callable[[Event], None], run_id: str) -> None:
        super().__init__()
        self._emit_event = emit
        self._run_id = run_id

    def emit(self, record: logging.LogRecord) -> None:
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


def _write_json(event: Event) -> None:
    fields = to_fields(event, host=this_host())
    os.write(2, (json.dumps(fit(fields)) + "\n").encode())


def _write_text(event: Event) -> None:
    if isinstance(event, LogRecord):
        write_line("\n".join(filter(None, (event.message, event.exception))))
