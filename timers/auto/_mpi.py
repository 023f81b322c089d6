"""Calls of MPI that wait for other ranks, made with mpi4py: each is a block, named as MPI names it.

Decision: MPI's own hook, PMPI, takes a library that is compiled for each MPI, and the methods of
mpi4py's types cannot be replaced; but the types are made to be subclassed. So ``COMM_WORLD`` and
``COMM_SELF`` become instances of subclasses, and so does each communicator that is made from one.
What does not come from there is not timed: waits for requests (what ``Isend`` returns is left
alone), windows, files, ``Comm.Get_parent``, and the end of MPI after that of the interpreter.
"""

from __future__ import annotations

import copyreg
import functools
from typing import TYPE_CHECKING, Any

from ._blocks import Hook, wrapped

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

# Who waits to be given work waits for as long as there is none, and nobody says who does.
_calls = Hook("mpi", patient=frozenset({"MPI_Recv", "MPI_Probe", "MPI_Mprobe", "MPI_Comm_accept"}))

_OPERATIONS = (
    "Barrier", "Bcast", "Gather", "Gatherv", "Scatter", "Scatterv", "Allgather", "Allgatherv",
    "Alltoall", "Alltoallv", "Alltoallw",
    "Reduce", "Allreduce", "Reduce_scatter", "Reduce_scatter_block", "Scan", "Exscan",
    "Neighbor_allgather", "Neighbor_allgatherv", "Neighbor_alltoall", "Neighbor_alltoallv",
    "Neighbor_alltoallw",
    "Send", "Ssend", "Rsend", "Recv", "Sendrecv", "Sendrecv_replace", "Probe", "Mprobe",
)  # fmt: skip
_WAITING = {
    **{name: f"MPI_{name}" for name in _OPERATIONS},
    **{name.lower(): f"MPI_{name}" for name in _OPERATIONS},  # of objects, which are pickled
    "Agree": "MPI_Comm_agree",
    "Disconnect": "MPI_Comm_disconnect",
}
"""By method of a communicator, the function of MPI that it is."""
_MAKING = {
    "Clone": "MPI_Comm_dup",
    "Dup": "MPI_Comm_dup",
    "Dup_with_info": "MPI_Comm_dup_with_info",
    "Create": "MPI_Comm_create",
    "Create_group": "MPI_Comm_create_group",
    "Split": "MPI_Comm_split",
    "Split_type": "MPI_Comm_split_type",
    "Shrink": "MPI_Comm_shrink",
    "Create_cart": "MPI_Cart_create",
    "Sub": "MPI_Cart_sub",
    "Create_graph": "MPI_Graph_create",
    "Create_dist_graph": "MPI_Dist_graph_create",
    "Create_dist_graph_adjacent": "MPI_Dist_graph_create_adjacent",
    "Create_intercomm": "MPI_Intercomm_create",
    "Merge": "MPI_Intercomm_merge",
    "Spawn": "MPI_Comm_spawn",
    "Spawn_multiple": "MPI_Comm_spawn_multiple",
    "Accept": "MPI_Comm_accept",
    "Connect": "MPI_Comm_connect",
}
"""The same of those that return a new communicator, and wait for the other ranks as well."""
_TYPES = ("Intracomm", "Cartcomm", "Graphcomm", "Distgraphcomm", "Intercomm")
_CONSTANTS = ("COMM_WORLD", "COMM_SELF")


def install_mpi(module: ModuleType) -> None:
    """Time the calls of communicators, and the end of MPI. In the thread that has imported it.

    :param module: ``mpi4py.MPI``.
    :raises AttributeError: it has not what mpi4py 4 has; its communicators are what they were.
    """
    mpi: Any = module
    communicators, finalize = _Communicators(mpi), wrapped(mpi.Finalize, _calls, "MPI_Finalize")
    if not mpi.Is_initialized():
        # Until then nothing may be asked of a communicator, as making one of another does.
        for name in ("Init", "Init_thread"):
            setattr(mpi, name, communicators.replaced_after(getattr(mpi, name)))
    elif not mpi.Is_finalized():
        communicators.replace_constants()
    mpi.Finalize = finalize


def install_pickling(module: ModuleType) -> None:
    """Time what mpi4py does in Python, in communicators that pickle without a copy.

    :param module: ``mpi4py.util.pkl5``.
    :raises AttributeError: it has no communicator.
    """
    kind: Any = module.Comm
    for name in vars(kind).keys() & _WAITING.keys():
        setattr(kind, name, wrapped(vars(kind)[name], _calls, _WAITING[name]))


class _Communicators:
    """Communicators of mpi4py with a block in each call that waits, in all else like its own.

    :param mpi: the module ``mpi4py.MPI``.
    """

    def __init__(self, mpi: Any) -> None:
        self._mpi = mpi
        self._types: dict[type, Any] = {}
        """By type of mpi4py."""
        for kind in (getattr(mpi, name) for name in _TYPES):
            self._types[kind] = self._subclass(kind)
        self._constants: list[tuple[Any, Any]] = []
        """Ours, and mpi4py's that it stands for."""

    def replace_constants(self) -> None:
        """Have the module's communicators be ours, for whoever takes them from now on."""
        plain = [getattr(self._mpi, name) for name in _CONSTANTS]
        ours = [self._types[type(comm)](comm) for comm in plain]
        self._constants = list(zip(ours, plain, strict=True))
        for name, comm in zip(_CONSTANTS, ours, strict=True):
            setattr(self._mpi, name, comm)
        copyreg.pickle(self._mpi.Intracomm, self._reduce_plain)

    def replaced_after(self, begin: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``begin``, after which they are replaced."""

        @functools.wraps(begin)
        def initialise(*arguments: Any, **keywords: Any) -> Any:
            done = begin(*arguments, **keywords)
            try:
                self.replace_constants()
            except Exception as error:  # noqa: BLE001  # whatever it is, the job goes on
                _calls.fail(error)
            return done

        return initialise

    def _subclass(self, kind: Any) -> Any:
        """Return a subclass of ``kind``, which ``repr`` and ``help`` call what they call that."""
        names: dict[str, Any] = {
            "__slots__": (),
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
            "__reduce__": self._reducing(kind),
        }
        for name, function in _WAITING.items():
            if hasattr(kind, name):
                names[name] = wrapped(getattr(kind, name), _calls, function)
        for name, function in _MAKING.items():
            if hasattr(kind, name):
                names[name] = self._making(wrapped(getattr(kind, name), _calls, function))
        if hasattr(kind, "free"):
            names["free"] = self._freeing(kind.free)
        return type(kind.__name__, (kind,), names)

    def _making(self, make: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(make)
        def made(*arguments: Any, **keywords: Any) -> Any:
            comm = make(*arguments, **keywords)
            ours = self._types.get(type(comm))  # none where it is ours already, as after Dup
            if ours is None:
                return comm
            try:
                return ours(comm)
            except Exception as error:  # noqa: BLE001  # whatever it is, the job goes on
                _calls.fail(error)
                return comm

        return made

    # -- what mpi4py asks of its constants by identity ----------------------------------------

    def _reducing(self, kind: Any) -> Callable[[Any], Any]:
        @functools.wraps(kind.__reduce__)
        def __reduce__(comm: Any) -> Any:  # noqa: N807  # named as what it stands for
            for ours, plain in self._constants:
                if ours is comm:
                    return plain.__reduce__()
            reduced = kind.__reduce__(comm)  # of one that is equal to a constant; raises for others
            return kind, tuple(reduced[1][1:])  # without its type, which nobody finds by its name

        return __reduce__

    def _reduce_plain(self, comm: Any) -> Any:
        """Pickle one of mpi4py's own, whose constants are not found by their names any more."""
        for ours, plain in self._constants:
            if plain is comm:
                return type(plain), (ours,)
        return comm.__reduce__()

    def _freeing(self, free: Callable[[Any], None]) -> Callable[[Any], None]:
        @functools.wraps(free)
        def spare_constants(comm: Any) -> None:
            if all(ours is not comm for ours, _ in self._constants):
                free(comm)

        return spare_constants
