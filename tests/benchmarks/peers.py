"""What else there is for the same purpose, as contenders: torch's pairs, and the standard library.

Those of the standard library watch within the process: they cost less, and end with it.
"""

from __future__ import annotations

import faulthandler
import importlib
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from .bursts import Contender
from .ours import QUEUE_BURST, blocks, taken
from .serving import TORCH, drained

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["in_process", "torch_file", "torch_local"]

_FAR = 600


def torch_file(path: str) -> Iterator[Contender]:
    """torch's pipe takes about 700 requests before its client raises."""
    timer: Any = importlib.import_module(TORCH)
    for contender in blocks("torch File", timer.expires, timer.FileTimerClient(path)):
        burst = 4 if "default" in contender.name else 50
        yield contender._replace(burst=burst, settle=partial(_settled, path))


def torch_local(queue: Any) -> Iterator[Contender]:
    """torch's server for it takes ``mp.Queue`` only."""
    timer: Any = importlib.import_module(TORCH)
    for contender in blocks("torch Local, mp.Queue", timer.expires, timer.LocalTimerClient(queue)):
        burst = 4 if "default" in contender.name else QUEUE_BURST
        yield contender._replace(burst=burst, settle=lambda: taken(queue))


def in_process() -> Iterator[Contender]:
    """Timers that are set and stopped, and nothing more."""

    def dump_later() -> None:
        faulthandler.dump_traceback_later(_FAR)
        faulthandler.cancel_dump_traceback_later()

    def interval_timer() -> None:
        signal.setitimer(signal.ITIMER_REAL, _FAR)
        signal.setitimer(signal.ITIMER_REAL, 0)

    def thread_timer() -> None:
        timer = threading.Timer(_FAR, print)
        timer.start()
        timer.cancel()

    yield Contender("faulthandler.dump_traceback_later + cancel", lambda: dump_later, 50)
    yield Contender("signal.setitimer set + clear", lambda: interval_timer)
    yield Contender("threading.Timer start + cancel", lambda: thread_timer, 50)


def _settled(path: str) -> None:
    drained(path)
    time.sleep(0.01)  # it looks again some time after the last writer has left
