"""Reductions of eight bytes, by a communicator with automatic timers and by one without, in turns.

``timed_mpi.py ROUNDS``: rank 0 prints a JSON object of two lists, seconds of a call in each round.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

# By name, so that a type checker needs no mpi4py.
MPI: Any = importlib.import_module("mpi4py.MPI")

CALLS = 1000
"""Of a round."""


def seconds_of_a_call(comm: Any) -> float:
    mine, all_of_them = bytearray(8), bytearray(8)
    reduce = comm.Allreduce
    reduce(mine, all_of_them)  # all ranks are there
    began = time.perf_counter()
    for _ in range(CALLS):
        reduce(mine, all_of_them)
    return (time.perf_counter() - began) / CALLS


def main() -> None:
    timed = MPI.COMM_WORLD
    comms = {"bare": MPI.Intracomm(timed), "timed": timed}
    took: dict[str, list[float]] = {name: [] for name in comms}
    for number in range(1 + int(sys.argv[1])):
        for name, comm in comms.items():
            seconds = seconds_of_a_call(comm)
            if number:  # the first makes the connections
                took[name].append(seconds)
    if timed.Get_rank() == 0:
        print(json.dumps(took))


if __name__ == "__main__":
    main()
