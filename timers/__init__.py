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

Importing this package loads nothing but the standard library, and of that what a worker needs.

The map::

    worker/                      what a worker loads: expires() and the clients
    server/                      the watchdog: loop, timers, counts, workers, reaper
    transport/                   wire format, named pipe, Unix socket
    stacks/                      take, parse and print the stack of a process
    accelerator/                 what is done most often once more in C, where that could be built
    auto/                        what timers run adds to a worker
    integrations/                callbacks for Lightning and Hugging Face, loaded by their users
    linux/                       /proc, pidfd, descriptors, ptrace
    api.py                       the contract, and base classes for a pair of one's own
    socket_timer.py              the pair over a Unix socket, which is recommended
    file_based_local_timer.py    the pair over a named pipe, with torch's wire format
    local_timer.py               the pair over a multiprocessing queue
    debug_info_logging.py        torch's hook for what is logged before a kill
    events.py                    the events of a server, and who may listen
    errors.py                    every exception that is raised here
    clock.py                     the two clocks, replaceable in tests
    bounded.py                   run what may block for a bounded time
    forks.py                     reset objects in a forked child
    living.py                    objects that are known for as long as they live
    testing.py                   clocks, clients and observers for tests
    README.md                    how blocks, servers and the wire behave
"""

import importlib
from typing import TYPE_CHECKING, Any

from .auto.learned import LEARNED
from .errors import TimerError
from .worker.beat import beat
from .worker.client import TimerClient, TimerRequest
from .worker.environment import NoTimers, configure_from_env
from .worker.pipe_client import FileTimerClient, FileTimerRequest
from .worker.queue_client import LocalTimerClient
from .worker.scopes import configure, expires

if TYPE_CHECKING:
    __version__: str
    from .api import RequestQueue, TimerServer
    from .file_based_local_timer import FileTimerServer
    from .local_timer import LocalTimerServer, MultiprocessingRequestQueue
    from .server.reaper import ReapPolicy
    from .socket_timer import SocketTimerServer
    from .worker.socket_client import SocketTimerClient

__all__ = [
    "LEARNED",
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
    "beat",
    "configure",
    "configure_from_env",
    "expires",
]


# What most workers never use costs them nothing: it is loaded when somebody asks for it.
_MODULES = {
    "FileTimerServer": "file_based_local_timer",
    "LocalTimerServer": "local_timer",
    "MultiprocessingRequestQueue": "local_timer",
    "ReapPolicy": "server.reaper",
    "RequestQueue": "api",
    "SocketTimerClient": "worker.socket_client",
    "SocketTimerServer": "socket_timer",
    "TimerServer": "api",
}
_TORCHS_MODULES = ("api", "debug_info_logging", "file_based_local_timer", "local_timer")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
        found = globals()[name] = getattr(module, name)
        return found
    if name == "__version__":
        return _version()
    if name in _TORCHS_MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    metadata = importlib.import_module("importlib.metadata")  # as slow to load as all the rest
    try:
        return str(metadata.version("expiration-timers"))
    except metadata.PackageNotFoundError:
        return "unknown"  # run from a source tree that is not installed


def __dir__() -> list[str]:
    return ["__version__", *__all__, *_TORCHS_MODULES]
