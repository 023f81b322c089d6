"""A job of MPI: one rank, by its number in the argument, blocks in a read, the others spin.

``mpirun -n 3 python hang_mpi.py RANK [ctypes]``; with ``ctypes`` it calls the library of MPI,
without mpi4py. Each rank says its number and pid as JSON before that.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import socket
import sys
from typing import Any


def receive() -> None:
    ours, _theirs = socket.socketpair()
    ours.recv(1)


def reduce_gradients(comm: Any) -> None:
    comm.Allreduce(bytearray(8), bytearray(8))


def reduce_in_c(library: Any) -> None:
    library.MPI_Barrier(ctypes.byref(library.ompi_mpi_comm_world))


def main() -> None:
    odd = int(sys.argv[1])
    rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
    if sys.argv[2:] == ["ctypes"]:
        library: Any = ctypes.CDLL("libmpi.so.40", ctypes.RTLD_GLOBAL)
        library.ompi_mpi_comm_world = ctypes.c_byte.in_dll(library, "ompi_mpi_comm_world")
        library.MPI_Init(None, None)
    else:
        comm = importlib.import_module("mpi4py.MPI").COMM_WORLD
    sys.stdout.write(json.dumps({"rank": rank, "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    if rank == odd:
        receive()
    elif sys.argv[2:] == ["ctypes"]:
        reduce_in_c(library)
    else:
        reduce_gradients(comm)


if __name__ == "__main__":
    main()
