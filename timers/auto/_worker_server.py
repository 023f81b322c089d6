"""Start torch's worker server in a worker, so that its Flight Recorder can be asked from outside.

The server is a thread of C++ that answers HTTP on a Unix socket, also while the worker is stuck
with the GIL held. This module never imports torch: it acts on one that the worker has imported, or
waits until it does. Torch 2.4 and later have the server; without it nothing happens.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from ._bootstrap import WhenImported

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORDER_VARIABLE = "TIMERS_RECORDER_DIR"
"""A directory for the sockets, ``PID.sock`` each; ``timers run`` makes it."""
_TORCH = "torch.distributed.distributed_c10d"
_BINDINGS = "torch._C._distributed_c10d"
_LONGEST_PATH = 107
"""Of a Unix socket (unix(7)), without its final zero."""

_started_by = 0
"""Pid of the process whose server runs: a forked child has to start its own."""


def start_worker_server(environ: Mapping[str, str] | None = None) -> None:
    """Start the server as soon as ``torch.distributed`` is there, which may be now.

    Does nothing without the directory of ``TIMERS_RECORDER_DIR``. Never raises: that nobody can
    ask this worker later must not cost it its work now. From any thread; once for each process.

    :param environ: in place of ``os.environ``.
    """
    directory = (os.environ if environ is None else environ).get(RECORDER_VARIABLE)
    if not directory or not os.path.isdir(directory):
        return
    torch = sys.modules.get(_TORCH)
    if torch is not None and not getattr(torch.__spec__, "_initializing", False):
        _start(directory)
    elif not any(isinstance(finder, WhenImported) for finder in sys.meta_path):
        waiting = WhenImported({_TORCH: lambda _: _start(directory)})
        sys.meta_path.insert(0, waiting)


def _start(directory: str) -> None:
    global _started_by  # noqa: PLW0603  # one server for each process, whoever asks for it
    path = os.path.join(directory, f"{os.getpid()}.sock")
    make = getattr(sys.modules.get(_BINDINGS), "_WorkerServer", None)
    if make is None or _started_by == os.getpid() or len(os.fsencode(path)) > _LONGEST_PATH:
        return
    _started_by = os.getpid()
    with contextlib.suppress(Exception):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # of a process that had this pid before
        from ctypes import py_object, pythonapi  # noqa: PLC0415  # slow; torch has imported it

        # Its destructor waits for its thread, which a forked child does not have: it would never
        # end. So the server is kept for ever.
        pythonapi.Py_IncRef(py_object(make(path)))
