"""A program as people write them with mpi4py, and no word of timers in it.

``plain_mpi.py [STUCK]``: the rank that gets stuck before its last barrier (-1 for none).
"""

from __future__ import annotations

import importlib
import socket
import sys
from typing import Any

# By name, so that a type checker needs no mpi4py.
MPI: Any = importlib.import_module("mpi4py.MPI")
pkl5: Any = importlib.import_module("mpi4py.util.pkl5")

STUCK = int(sys.argv[1])
STEPS = 5


def read_shard() -> None:
    ours, _theirs = socket.socketpair()
    ours.recv(1)


def exchange(comm: Any) -> None:
    """Hand something to the next rank of a ring, in each way."""
    rank, size = comm.Get_rank(), comm.Get_size()
    following, before = (rank + 1) % size, (rank - 1) % size
    request = comm.Isend(bytearray(8), following)
    comm.Recv(bytearray(8), before)
    request.Wait()
    assert comm.sendrecv(rank, following, source=before) == before


def main() -> None:
    world = MPI.COMM_WORLD
    ring = world.Create_cart([world.Get_size()], periods=[True])
    half = world.Split(world.Get_rank() % 2)
    for _ in range(STEPS):
        world.Allreduce(bytearray(8), bytearray(8), op=MPI.BOR)
        assert half.allreduce(1) == half.Get_size()
        exchange(ring)
    assert half.Dup().bcast("x") == "x"
    assert pkl5.Intracomm(world).gather(1) in (None, [1] * world.Get_size())
    if world.Get_rank() == STUCK:
        read_shard()
    world.Barrier()


if __name__ == "__main__":
    main()
