"""Communicators whose calls are blocks; with a module that stands for mpi4py's."""

from __future__ import annotations

import copyreg
import logging
import pickle
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

import pytest

from support.noting_client import NotingClient
from timers.auto import _blocks, _mpi, hooks
from timers.auto._blocks import Hook

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "mpi_of_a_test"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> NotingClient:
    made = NotingClient()
    monkeypatch.setattr(_blocks, "_client", lambda _: made)
    hook = Hook("mpi", patient=_mpi._calls._patient)
    monkeypatch.setattr(_mpi, "_calls", hook)
    return made


class Comm:
    """As mpi4py's: equal by handle, made from another one, pickled when it is a constant."""

    __hash__ = None  # type: ignore[assignment]  # as there
    __slots__ = ("handle",)
    handle: Any

    def __new__(cls, comm: Any = None) -> Self:
        made = super().__new__(cls)
        made.handle = comm.handle if comm is not None else None
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Comm) and self.handle == other.handle

    def __reduce__(self) -> Any:
        if self.handle not in CONSTANTS:
            raise ValueError("cannot serialize")
        plain = CONSTANTS[self.handle]
        return self.handle if self is plain else (type(self), (plain,))

    def free(self) -> None:
        self.handle = None

    def Barrier(self) -> None:  # noqa: N802  # MPI's name
        """Barrier synchronization."""
        if self.handle is None:
            raise RuntimeError("null communicator")

    def allreduce(self, sendobj: Any, op: Any = None) -> Any:
        del op
        return sendobj

    def Isend(self) -> str:  # noqa: N802  # as above
        return "request"

    def Dup(self) -> Any:  # noqa: N802  # as above
        made = type(self)()
        made.handle = "dup"
        return made

    def Split(self) -> Any:  # noqa: N802  # as above
        made = Intracomm()
        made.handle = "split"
        return made


class Intracomm(Comm):
    __slots__ = ()


class Cartcomm(Intracomm):
    __slots__ = ()


class Intercomm(Comm):
    __slots__ = ()


CONSTANTS: dict[object, Comm] = {}
for each in (Comm, Intracomm, Cartcomm, Intercomm):
    each.__module__ = NAME


def a_module() -> Any:
    module: Any = ModuleType(NAME)
    module.Comm, module.Intracomm, module.Intercomm = Comm, Intracomm, Intercomm
    module.Cartcomm = module.Graphcomm = module.Distgraphcomm = Cartcomm
    for name in ("COMM_WORLD", "COMM_SELF"):
        CONSTANTS[name] = comm = Intracomm()
        comm.handle = name
        setattr(module, name, comm)
    module.state = ["initialised"]
    module.Is_initialized = lambda: bool(module.state)
    module.Is_finalized = lambda: "finalised" in module.state
    module.Init = module.Init_thread = lambda: module.state.append("initialised")
    module.Finalize = lambda: module.state.append("finalised")
    return module


@pytest.fixture
def mpi(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module = a_module()
    monkeypatch.setitem(sys.modules, NAME, module)
    yield module
    copyreg.dispatch_table.pop(Intracomm, None)


def test_calls_that_wait_are_blocks_by_the_names_of_mpi(mpi: Any, client: NotingClient) -> None:
    _mpi.install_mpi(mpi)
    mpi.COMM_WORLD.Barrier()
    assert mpi.COMM_SELF.allreduce(3) == 3
    mpi.Finalize()
    names = ["MPI_Barrier", "MPI_Allreduce", "MPI_Finalize"]
    assert client.calls == [f"{sign}{name}" for name in names for sign in "+-"]


def test_a_call_that_does_not_wait_is_left_alone(mpi: Any, client: NotingClient) -> None:
    _mpi.install_mpi(mpi)
    assert mpi.COMM_WORLD.Isend() == "request"
    assert type(mpi.COMM_WORLD).Isend is Comm.Isend
    assert client.calls == []


def test_an_exception_passes_through_and_ends_the_block(mpi: Any, client: NotingClient) -> None:
    _mpi.install_mpi(mpi)
    comm = type(mpi.COMM_WORLD)()
    with pytest.raises(RuntimeError, match="null communicator"):
        comm.Barrier()
    assert client.calls == ["+MPI_Barrier", "-MPI_Barrier"]


def test_a_communicator_made_from_one_is_one(mpi: Any, client: NotingClient) -> None:
    _mpi.install_mpi(mpi)
    ours = type(mpi.COMM_WORLD)
    for made in (mpi.COMM_WORLD.Dup(), mpi.COMM_WORLD.Split(), mpi.COMM_WORLD.Split().Dup()):
        assert type(made) is ours
        made.Barrier()
    assert client.calls.count("+MPI_Barrier") == 3
    assert client.calls.count("-MPI_Comm_split") == 2


def test_pickle_takes_it_for_what_it_stands_for(mpi: Any, client: NotingClient) -> None:
    plain = mpi.COMM_WORLD
    before = pickle.dumps(plain)
    _mpi.install_mpi(mpi)
    assert mpi.COMM_WORLD is not plain
    assert pickle.dumps(mpi.COMM_WORLD) == before
    for comm in (mpi.COMM_WORLD, plain, Intracomm(plain), Cartcomm(plain)):
        assert pickle.loads(pickle.dumps(comm)) == plain
    with pytest.raises(ValueError, match="cannot serialize"):
        pickle.dumps(mpi.COMM_WORLD.Dup())
    assert client.calls == ["+MPI_Comm_dup", "-MPI_Comm_dup"]


def test_a_constant_is_not_freed_and_others_are(mpi: Any, client: NotingClient) -> None:
    del client
    _mpi.install_mpi(mpi)
    made = mpi.COMM_WORLD.Dup()
    for comm in (mpi.COMM_WORLD, made):
        comm.free()
    assert (mpi.COMM_WORLD.handle, made.handle) == ("COMM_WORLD", None)


def test_who_initialises_mpi_later_has_them_from_then_on(mpi: Any, client: NotingClient) -> None:
    plain = mpi.COMM_WORLD
    mpi.state.clear()
    _mpi.install_mpi(mpi)
    assert mpi.COMM_WORLD is plain
    mpi.Init()
    mpi.COMM_WORLD.Barrier()
    assert client.calls == ["+MPI_Barrier", "-MPI_Barrier"]


def test_after_the_end_of_mpi_nothing_is_replaced(mpi: Any, client: NotingClient) -> None:
    del client
    plain = mpi.COMM_WORLD
    mpi.Finalize()
    _mpi.install_mpi(mpi)
    assert mpi.COMM_WORLD is plain


# -- what is not as expected ----------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["Graphcomm", "Is_finalized", "COMM_SELF", "Finalize"])
def test_an_mpi4py_that_is_not_as_expected_costs_one_warning(
    mpi: Any,
    client: NotingClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
) -> None:
    delattr(mpi, missing)
    plain = mpi.COMM_WORLD
    monkeypatch.setitem(hooks._INTO, NAME, (("mpi", _mpi.install_mpi),))
    with caplog.at_level(logging.WARNING):
        hooks.install(mpi, "all")
        hooks.install(mpi, "all")
    (record,) = caplog.records
    assert "the kind 'mpi'" in record.getMessage()
    assert mpi.COMM_WORLD is plain
    assert client.calls == []


@pytest.mark.parametrize("late", [False, True])
def test_a_communicator_that_cannot_be_made_ours_is_what_it_was(
    mpi: Any,
    client: NotingClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    late: bool,
) -> None:
    if late:
        mpi.state.clear()
    _mpi.install_mpi(mpi)
    broken = mpi.Init if late else mpi.COMM_WORLD.Split
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Comm, "__new__", _refuse)
        outcome = broken()
    assert (outcome is None) is late
    (record,) = caplog.records
    assert "no more automatic timers of the kind 'mpi'" in record.getMessage()
    client.calls.clear()
    mpi.COMM_WORLD.Barrier()
    assert client.calls == []


def _refuse(cls: Any, comm: Any = None) -> Any:
    if comm is not None:
        raise TypeError("not from another one")
    return object.__new__(cls)


def test_a_server_that_is_gone_costs_one_warning_and_no_call(
    mpi: Any, client: NotingClient, caplog: pytest.LogCaptureFixture
) -> None:
    _mpi.install_mpi(mpi)
    client.fails = True
    with caplog.at_level(logging.WARNING):
        assert [mpi.COMM_WORLD.allreduce(n) for n in range(2)] == [0, 1]
    assert len(caplog.records) == 1
