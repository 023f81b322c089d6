"""What four stuck ranks of an NCCL job said: their recorders and their stacks.

Recorded with torch 2.11 and NCCL 2.28 on one card that four ranks shared, a small network under
DistributedDataParallel with ``loss.item()`` at the end of each step, stuck at step 20. Of each
recorder the last six entries are kept.
"""

from __future__ import annotations

import json
from pathlib import Path

from observability.recorder._read import from_json
from observability.samples.types import Sample, WorkerView
from timers.events import WorkerInfo
from timers.linux.procfs import ProcessFacts
from timers.stacks._parsing import parse_py_spy
from timers.stacks.take import StackDump

__all__ = ["RECORDINGS", "recorder_dump", "views"]

RECORDINGS = Path(__file__).parent / "recordings"


def recorder_dump(case: str, rank: int) -> bytes:
    """The answer of the worker server."""
    return (RECORDINGS / case / f"rank{rank}.json").read_bytes()


def views(case: str, *, native: bool = False, recorder: bool = True) -> list[WorkerView]:
    """The four ranks of a case as a roll call sees them."""
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
        facts = ProcessFacts(
            state="running" if main.active else "sleeping",
            wait_channel=None if main.active else "futex_do_wait",
            system_call="running" if main.active else None,
            threads=len(threads),
        )
        if main.frames and main.frames[0].function == "fetch_shard":
            facts = facts._replace(wait_channel="wait_woken")
        dump = StackDump(pid=pid, method="py-spy", threads=threads, facts=facts)
        found.append(
            WorkerView(
                worker=WorkerInfo(pid=pid, rank=rank, local_rank=rank),
                host="node1",
                samples=tuple(
                    Sample(dump=dump, at_seconds=at, cpu_seconds=at * main.active)
                    for at in (0.0, 0.3, 0.6)
                ),
                scope_id="train_step",
                thread=pid,
                expired=True,
                recording=from_json(recorder_dump(case, rank)) if recorder else None,
            )
        )
    return found
