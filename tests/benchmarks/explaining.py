"""From the samples and recorders of all ranks of a job to the report: how long, how much memory.

Made-up ranks, in the shape of real ones: each has its own stacks and its own recorder, one of them
has not joined the operation in which the others wait. Every size has a process of its own, which
this module is, too: ``python -m tests.benchmarks.explaining SIZE RUNS`` prints one JSON object.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from .table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .effort import Effort

__all__ = ["READING", "REPORT", "rows"]

REPORT = "report with {:,} ranks and their recorders"
READING = "one answer of a recorder, 2,000 entries, read"
_ENTRIES = 2000


def rows(effort: Effort) -> Iterator[Row]:
    """Measure."""
    sizes = effort.of((8, 1_000, 16_000), (8, 200))
    runs = effort.of(5, 1)
    found = {size: _apart(size, runs) for size in sizes}
    for size, figures in found.items():
        yield Row(REPORT.format(size), figures["seconds"], "s", REPORT.format(8))
    largest = found[max(sizes)]
    yield Row(f"memory of it with {max(sizes):,} ranks", largest["grown"], "MiB")
    yield Row(READING, largest["reading"], "ms")


def _apart(size: int, runs: int) -> dict[str, list[float]]:
    command = [sys.executable, "-m", "tests.benchmarks.explaining", str(size), str(runs)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, list[float]] = json.loads(answer.stdout)
    return found


def _dump(calls: int, completed: int) -> bytes:
    """An answer of the worker server."""
    return json.dumps(
        {
            "pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1, 2, 3]"}},
            "entries": [
                {
                    "collective_seq_id": number,
                    "input_dtypes": ["Float"],
                    "input_sizes": [[68362]],
                    "is_p2p": False,
                    "output_dtypes": ["Float"],
                    "output_sizes": [[68362]],
                    "process_group": ["0", "default_pg"],
                    "profiling_name": "nccl:all_reduce",
                    "retired": number <= completed,
                    "state": "completed" if number <= completed else "scheduled",
                    "time_discovered_started_ns": 0,
                }
                for number in range(1, calls + 1)
            ],
        }
    ).encode()


def _measure(size: int, runs: int) -> dict[str, list[float]]:
    from dataclasses import replace

    from hangs.simulated import IN_ALL_REDUCE, OUTER, looking, view
    from observability.hang.report import analyse
    from observability.recorder._read import from_json
    from timers.stacks.take import Frame

    reading = []
    for _ in range(runs):
        answer = _dump(_ENTRIES, _ENTRIES - 1)
        began = time.perf_counter()
        ahead = from_json(answer)
        reading.append(time.perf_counter() - began)
    behind = from_json(_dump(_ENTRIES - 1, _ENTRIES - 1))
    members = tuple(range(size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    late = size // 3
    ranks = []
    for rank in members:
        frames = (Frame("fetch", "/job/data.py", 9), *OUTER) if rank == late else IN_ALL_REDUCE
        samples = (looking(1000 + rank, frames, at=10.0 * at, cpu=5.0) for at in range(3))
        recording = behind if rank == late else ahead
        groups = tuple(replace(group, ranks=members) for group in recording.groups)
        ranks.append(replace(view(rank, *samples), recording=replace(recording, groups=groups)))
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        report = analyse(ranks, world_size=size)
        seconds.append(time.perf_counter() - began)
        assert [suspect.rank for suspect in report.suspects] == [late], report.sentence
        assert "has not joined" in report.suspects[0].holds_up
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": seconds, "grown": [grown * 1024.0], "reading": reading}


if __name__ == "__main__":
    sys.path.insert(0, "tests")
    print(json.dumps(_measure(int(sys.argv[1]), int(sys.argv[2]))))
