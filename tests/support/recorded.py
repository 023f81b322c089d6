"""What four stuck ranks of an NCCL job said: their recorders and their stacks.

Recorded with torch 2.11 and NCCL 2.28 on one card that four ranks shared, a small network under
DistributedDataParallel with ``loss.item()`` at the end of each step, stuck at step 20. Of each
recorder the last six entries are kept.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from observability.recorder._read import from_json
from observability.samples.frames import c_frames
from observability.samples.types import Sample, Surroundings, WorkerView
from observability.sampling._instructions import is_driver
from timers.events import WorkerInfo
from timers.linux.procfs import ProcessFacts
from timers.stacks._parsing import parse_py_spy
from timers.stacks.take import StackDump

__all__ = ["RECORDINGS", "recorder_dump", "slow_views", "views"]

RECORDINGS = Path(__file__).parent / "recordings"


def recorder_dump(case: str, rank: int) -> bytes:
    """The answer of the worker server."""
    return (RECORDINGS / case / f"rank{rank}.json").read_bytes()


_CHANNELS = {"fetch_shard": "wait_woken", "hold_the_gil": "hrtimer_nanosleep"}
"""Where the kernel has those that sleep in a function."""


def _native_files(case: str, rank: int) -> list[str]:
    """Where the C frames of its main thread are, the innermost first."""
    threads = parse_py_spy((RECORDINGS / case / f"native{rank}.json").read_bytes()) or ()
    frames = next(thread.frames for thread in threads if thread.name == "MainThread")
    return [frame.file for frame in c_frames(frames)]


def slow_views() -> list[WorkerView]:
    """The four ranks of the case in which one works on its CPU, with what its C frames show."""
    found = views("slow", times=12)
    work = is_driver(_native_files("slow", 2))
    assert work is False
    return [
        replace(view, surroundings=Surroundings(gpu=True, in_driver=work if rank == 2 else None))
        for rank, view in enumerate(found)
    ]


def views(
    case: str, *, native: bool = False, recorder: bool = True, times: int = 3
) -> list[WorkerView]:
    """The four ranks of a case as a roll call sees them, at so many samples."""
    found = []
    for rank in range(4):
        name = (
            "native" if native and (RECORDINGS / case / f"native{rank}.json").exists() else "stack"
        )
        path = RECORDINGS / case / f"{name}{rank}.json"
        output = path.read_bytes()
        pid = json.loads(output)[0]["pid"]
        threads = parse_py_spy(output) or ()
        main = next(thread for thread in threads if thread.thread == pid)
        channel = _CHANNELS.get(main.frames[0].function if main.frames else "")
        runs = main.active and channel is None
        facts = ProcessFacts(
            state="running" if runs else "sleeping",
            wait_channel=None if runs else channel or "futex_do_wait",
            system_call="running" if runs else None,
            threads=len(threads),
        )
        dump = StackDump(pid=pid, method="py-spy", threads=threads, facts=facts)
        found.append(
            WorkerView(
                worker=WorkerInfo(pid=pid, rank=rank, local_rank=rank),
                host="node1",
                samples=tuple(
                    Sample(dump=dump, at_seconds=at, cpu_seconds=at * runs)
                    for at in (0.3 * number for number in range(times))
                ),
                scope_id="train_step",
                thread=pid,
                expired=True,
                recording=from_json(recorder_dump(case, rank)) if recorder else None,
            )
        )
    return found
