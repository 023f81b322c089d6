"""Have the watchdog end a process that has no timer: a kill goes one way."""

from __future__ import annotations

import logging
import signal
import time

from timers.errors import TimerError
from timers.transport.fifo_writer import FifoWriter
from timers.transport.wire import request_json

__all__ = ["STALLED_SCOPE", "expire_now"]

_logger = logging.getLogger(__name__)
STALLED_SCOPE = "job stalled"
"""The scope of the timer by which the suspect of a stall is ended."""


def expire_now(timer_file: str, pid: int) -> None:
    """Send the server of ``timer_file`` a timer of ``pid`` that has expired.

    The server then does all that it does at an expiry: who may not be reaped is not. Never raises.
    """
    writer = FifoWriter(timer_file)
    try:
        line = request_json(pid, STALLED_SCOPE, time.time(), int(signal.SIGKILL))
        writer.write(line.encode() + b"\n")
    except (OSError, TimerError):
        _logger.exception("could not have process %d ended", pid)
    finally:
        writer.close()
