"""Expiration timers for code that may get stuck, watched from outside the process.

A worker says how long a block may take; a server on the same host records where the worker is
stuck when the block overruns, and ends it, so that its launcher can start it again. A drop-in for
:mod:`torch.distributed.elastic.timer`: the same names, in modules of the same names.

Usage::

    import multiprocessing as mp
    import time

    import timers


    def worker(queue):
        timers.configure(timers.LocalTimerClient(queue))
        with timers.expires(after=60, scope="step"):
            pass  # does what it should
        with timers.expires(after=1, scope="all_reduce"):
            time.sleep(3600)  # is stuck, and reaped a second later


    if __name__ == "__main__":
        context = mp.get_context("spawn")
        queue = context.SimpleQueue()
        server = timers.LocalTimerServer(queue)
        server.start()
        process = context.Process(target=worker, args=(queue,))
        process.start()
        process.join()
        server.stop()
        print(process.exitcode)  # -9

Importing this package loads nothing but the standard library.
"""

from typing import TYPE_CHECKING, Any

from .api import RequestQueue, TimerClient, TimerRequest, TimerServer, configure, expires
from .environment import NoTimers, configure_from_env
from .errors import TimerError
from .file_based_local_timer import FileTimerClient, FileTimerRequest, FileTimerServer
from .local_timer import LocalTimerClient, LocalTimerServer, MultiprocessingRequestQueue
from .reaper import ReapPolicy

if TYPE_CHECKING:
    from .socket_timer import SocketTimerClient, SocketTimerServer

__all__ = [
    "FileTimerClient",
    "FileTimerRequest",
    "FileTimerServer",
    "LocalTimerClient",
    "LocalTimerServer",
    "MultiprocessingRequestQueue",
    "NoTimers",
    "ReapPolicy",
    "RequestQueue",
    "SocketTimerClient",
    "SocketTimerServer",
    "TimerClient",
    "TimerError",
    "TimerRequest",
    "TimerServer",
    "configure",
    "configure_from_env",
    "expires",
]


def __getattr__(name: str) -> Any:
    # The socket pair is loaded by those who use it: sockets are slow to import.
    if name in ("SocketTimerClient", "SocketTimerServer"):
        from . import socket_timer  # noqa: PLC0415  # see above

        return getattr(socket_timer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
