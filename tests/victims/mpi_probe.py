"""Print, as JSON, what ``pickle``, ``inspect`` and others make of mpi4py's communicators.

Run with and without automatic timers, it has to print the same. The first line says whether there
are any. With ``late`` MPI is initialised by the program and not by the import.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import pickle
import re
import sys
from typing import TYPE_CHECKING, Any

import mpi4py

if TYPE_CHECKING:
    from collections.abc import Callable

LATE = sys.argv[1:] == ["late"]
mpi4py.rc.initialize = not LATE
MPI: Any = importlib.import_module("mpi4py.MPI")


def shown(thing: Any) -> list[object]:
    try:
        signature = str(inspect.signature(thing))
    except ValueError as error:
        signature = type(error).__name__
    return [signature, inspect.getdoc(thing), thing.__name__, thing.__qualname__]


def outcome(function: Callable[[], object]) -> object:
    try:
        return function()
    except Exception as error:  # noqa: BLE001  # whichever it is, is the point
        return f"{type(error).__name__}: {error}"


def described(comm: Any) -> list[object]:
    kind = type(comm)
    names = [name for name in dir(kind) if not name.startswith("_")]
    return [
        kind.__name__,
        kind.__qualname__,
        kind.__module__,
        inspect.getdoc(kind),
        repr(comm),
        [hasattr(comm, name) for name in ("__dict__", "__weakref__")],
        [isinstance(comm, base) for base in (MPI.Comm, MPI.Intracomm, MPI.Intercomm, MPI.Cartcomm)],
        kind.__hash__ is None,
        bool(comm),
        {name: shown(getattr(comm, name)) for name in names if callable(getattr(kind, name))},
    ]


def pickled(comm: Any, protocol: int) -> list[object]:
    again = pickle.loads(pickle.dumps(comm, protocol))
    return [again == comm, type(again).__name__, again is comm, copy.deepcopy(comm) == comm]


def derived(world: Any) -> dict[str, Any]:
    """Communicators that come from another one, one of each kind."""
    half = world.Split(0, world.Get_rank())
    return {
        "Dup": world.Dup(),
        "Clone": world.Clone(),
        "Split": half,
        "Split none": world.Split(MPI.UNDEFINED),
        "Split_type": world.Split_type(MPI.COMM_TYPE_SHARED),
        "Create": world.Create(world.Get_group()),
        "Create_group": world.Create_group(world.Get_group()),
        "Create_cart": world.Create_cart([world.Get_size()]),
        "Sub": world.Create_cart([world.Get_size()]).Sub([True]),
        "Create_graph": world.Create_graph([0], []) if world.Get_size() == 1 else half,
        "Create_dist_graph_adjacent": world.Create_dist_graph_adjacent([0], [0]),
        "Dup of Split": half.Dup(),
    }


def main() -> None:
    if LATE:
        MPI.Init()
    pkl5: Any = importlib.import_module("mpi4py.util.pkl5")
    print("timers.auto.hooks" in sys.modules, MPI.COMM_WORLD.__class__ is not MPI.Intracomm)
    world = MPI.COMM_WORLD
    found: dict[str, object] = {}
    for name in ("COMM_WORLD", "COMM_SELF"):
        comm = getattr(MPI, name)
        found[name] = described(comm)
        found[f"bytes of {name}"] = [pickle.dumps(comm, each).hex() for each in range(6)]
        copies = [comm, MPI.Intracomm(comm), pkl5.Intracomm(comm), MPI.Comm.fromhandle(comm.handle)]
        found[f"pickles of {name}"] = [pickled(each, n) for each in copies for n in range(2, 6)]
        comm.free()
        found[f"freed {name}"] = [bool(comm), outcome(comm.Free), bool(comm)]
    for name, comm in derived(world).items():
        found[name] = [
            described(comm),
            outcome(lambda comm=comm: len(pickle.dumps(comm))),  # type: ignore[misc]  # bound
            comm == world,
            world != comm,
            comm == type(comm)(comm),
            bool(comm) and comm.Compare(world) == MPI.CONGRUENT,
            bool(comm) and comm.allreduce(1) == comm.size,
        ]
        comm.free()
        found[f"freed {name}"] = [bool(comm), comm == MPI.COMM_NULL]
    sized = MPI._sizeof(world), MPI._addressof(world) != 0, MPI._handleof(world) == world.handle
    found["for C"] = [*sized, MPI.Intracomm(world) == world, world == MPI.Intracomm(world)]
    found["bound"] = pickle.loads(pickle.dumps(world.allreduce))(2) == 2 * world.size
    found["functions"] = [shown(each) for each in (MPI.Init, MPI.Init_thread, MPI.Finalize)]
    found["pickled functions"] = pickle.loads(pickle.dumps(MPI.Finalize)) is MPI.Finalize
    made = world.Dup()
    MPI.Finalize()
    found["finalized"] = [bool(world), pickle.loads(pickle.dumps(world)) is world]
    found["made before that"] = [bool(made), outcome(lambda: pickle.dumps(made))]
    print(re.sub(r"0x[0-9a-f]+", "0x", json.dumps(found, indent=1)))


if __name__ == "__main__":
    main()
