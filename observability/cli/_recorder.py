"""What a job's environment needs so that PyTorch's Flight Recorder can be asked when it hangs."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from typing import TYPE_CHECKING

from observability.recorder.ask import DUMP_VARIABLE, PIPE_VARIABLE
from timers.auto import RECORDER_VARIABLE
from timers.transport.socket_path import private_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SIZES = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")
"""The name since torch 2.9, and the one before; some versions keep no entries by default."""
_ENTRIES = "2000"
_TIMING = "TORCH_NCCL_ENABLE_TIMING"
_PIPES = "/tmp"  # noqa: S108  # every host has it, and only requests go there


@contextlib.contextmanager
def recorder_environment(environ: Mapping[str, str], *, timing: bool) -> Iterator[dict[str, str]]:
    """Make a directory for the recorders; yield the variables to add, and clean up in the end.

    What ``environ`` has set is left as it is, except the directory, which is always this run's.

    :param timing: whether NCCL shall record when an operation starts on the GPU.
    """
    try:
        directory = private_directory("timers-recorder-")
    except OSError:  # the recorders do without; what cannot, says so
        yield {}
        return
    # NCCL aborts a worker that cannot make its pipe. The environment may be taken to hosts that
    # do not have our directory, but each has this one. Nothing but requests is written to it.
    pipes = os.path.join(_PIPES, f"{os.path.basename(directory)}.nccl.")
    wanted = {
        PIPE_VARIABLE: pipes if os.access(_PIPES, os.W_OK) else None,
        DUMP_VARIABLE: os.path.join(directory, "nccl."),
        _TIMING: "1" if timing else None,
    }
    if not any(name in environ for name in _SIZES):
        wanted |= dict.fromkeys(_SIZES, _ENTRIES)
    added = {name: value for name, value in wanted.items() if value and name not in environ}
    try:
        yield {**added, RECORDER_VARIABLE: directory}
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(OSError):  # without a descriptor to read it by
            os.rmdir(directory)
        for path in glob.glob(f"{glob.escape(pipes)}*"):
            with contextlib.suppress(OSError):
                os.unlink(path)
