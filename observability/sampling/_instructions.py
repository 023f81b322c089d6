"""Whether a thread that keeps a CPU busy is in the driver of a GPU, or does work of its own.

C frames would tell that, too. But py-spy reads the symbols of all libraries first, which takes more
than a second where PyTorch is loaded, and the process is paused all that time. Which file the
instruction is in that a thread is met at, is known within milliseconds.

A process of its own looks, :mod:`._instruction_files`: a stop of a traced child would be reported
to whoever waits for the end of that child here (ptrace(2)), and who traces must end to be sure
that the traced one goes on.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from timers.stacks import tools

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROGRAM = str(Path(__file__).with_name("_instruction_files.py"))
_TIMES = 12
_SECONDS = 1.0
_DRIVER = re.compile(r"lib(?:cuda|cudart|nvidia-\w+|hsa-runtime64|hsakmt|amdhip64)\b")
_NOBODYS = re.compile(r"(?:\[.*|lib(?:c|m|pthread|rt|stdc\+\+|gcc_s)\b.*|ld-.*|)")
"""Files in which everybody is now and then: the clock, a yield, a copy."""
_FOR_RANKS = re.compile(r"lib(?:nccl|rccl|mpi|open-pal|uc[pst])\b")


def is_driver(files: Iterable[str]) -> bool | None:
    """Say whether a thread that was met in ``files`` runs the driver of a GPU.

    None when that is not known, and of one that waits for other ranks.
    """
    names = [os.path.basename(file) for file in files]
    telling = [name for name in names if not _NOBODYS.fullmatch(name)]
    if not telling or any(map(_FOR_RANKS.match, telling)):
        return None
    hits = sum(_DRIVER.match(name) is not None for name in telling)
    if hits == 0:
        return False
    return True if 2 * hits >= len(telling) else None


def instruction_files(pid: int, thread: int, timeout: float) -> tuple[str, ...]:
    """Return the paths of the files that hold what a thread runs, one a sample; never raises.

    Empty where it may not be traced, is stopped, or has ended.

    :param thread: native id.
    :param timeout: seconds; never more than 1 is taken.
    """
    if timeout <= 0 or not sys.executable:
        return ()
    command = [sys.executable, "-I", "-S", _PROGRAM, str(pid), str(thread), str(_TIMES)]
    ran = tools.run(command, timeout=min(timeout, _SECONDS))
    return tuple(ran.output.decode("utf-8", "replace").splitlines())
