"""Which calls of a stack say where a worker is."""

from __future__ import annotations

import pytest

from observability.samples.frames import innermost_own, is_own, process_frames
from timers.stacks.take import Frame

HOOK = Frame("install_collectives.<locals>.wait", "/x/timers/auto/_groups.py", 64)
OF_MPI = Frame("_Communicators._making.<locals>.made", "/x/timers/auto/_mpi.py", 150)
TORCH = Frame("all_reduce", "/v/lib/python3.11/site-packages/torch/distributed/c10d.py", 9)
TRAIN = Frame("train", "/x/train.py", 40)


def test_a_hook_is_nobodys_line() -> None:
    assert process_frames([HOOK, TORCH, OF_MPI, TRAIN]) == (TORCH, TRAIN)
    assert innermost_own([HOOK, TRAIN]) == TRAIN
    assert not is_own(HOOK)


@pytest.mark.parametrize("file", ["/x/timers/auto/train.py", "/x/auto/_groups.py", "_steps.py"])
def test_a_file_of_the_job_is_its_own(file: str) -> None:
    assert is_own(frame := Frame("f", file, 1))
    assert process_frames([frame]) == (frame,)


def test_a_stack_of_hooks_alone_is_better_than_none() -> None:
    assert process_frames([HOOK]) == (HOOK,)
