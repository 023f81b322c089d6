"""Work, a wait that spins, or a question without an end: threads that are always on a CPU."""

from __future__ import annotations

import pytest

from observability.samples._busy import refine
from observability.samples._pace import Moment
from observability.samples.reading import Condition
from observability.samples.types import Loop, Pace, Source, Surroundings
from observability.samples.waits import Peers, Reason, Wait, native_wait
from observability.samples.worker import read
from support import recorded
from timers.stacks.take import Frame

WORK = Frame("work", "/job/train.py", 7)
COMPUTE = Reason(Wait.COMPUTE)
SYNCHRONIZE = (
    Frame("0x7fc267e14956", "libcuda.so.580", 0),
    Frame("cuStreamSynchronize", "libcuda.so.580", 0),
    Frame("at::native::_local_scalar_dense_cuda", "libtorch_cuda.so", 0),
    WORK,
)
MPI = (
    Frame("opal_progress", "libopen-pal.so.80", 0),
    Frame("mca_pml_ob1_recv", "mca_pml_ob1.so", 0),
    Frame("PMPI_Allreduce", "libmpi.so.40", 0),
    WORK,
)


def moments(*, gil: bool = True, faults: int = 0, wait: Wait = Wait.COMPUTE) -> list[Moment]:
    return [
        Moment(
            (WORK,), wait, number * 0.1, number * 0.1, None, holds_gil=gil, faults=faults * number
        )
        for number in range(12)
    ]


def source(loop: Loop, text: str = "x = f(x)") -> Source:
    return Source(text, loop, "")


@pytest.mark.parametrize(
    ("seen", "around", "wait", "pace"),
    [
        pytest.param(moments(), Surroundings(), Wait.COMPUTE, Pace.SPINNING, id="one function"),
        pytest.param(moments(faults=100), Surroundings(), Wait.COMPUTE, Pace.SLOW, id="memory"),
        pytest.param(moments(gil=False), Surroundings(), Wait.COMPUTE, Pace.SLOW, id="no lock"),
        pytest.param(
            moments(), Surroundings(source=source(Loop.BOUNDED)), Wait.COMPUTE, Pace.SLOW, id="for"
        ),
        pytest.param(
            moments(),
            Surroundings(source=source(Loop.WHILE)),
            Wait.COMPUTE,
            Pace.SPINNING,
            id="while",
        ),
        pytest.param(
            moments(),
            Surroundings(source=source(Loop.ASKING)),
            Wait.ASKING,
            Pace.SPINNING,
            id="asks",
        ),
        pytest.param(
            moments(faults=100),
            Surroundings(source=source(Loop.ASKING)),
            Wait.COMPUTE,
            Pace.SLOW,
            id="asks and works",
        ),
        pytest.param(moments(gil=False), Surroundings(gpu=True), Wait.DEVICE, Pace.STUCK, id="GPU"),
        pytest.param(
            moments(gil=False, faults=100),
            Surroundings(gpu=True),
            Wait.COMPUTE,
            Pace.SLOW,
            id="memory, with a GPU",
        ),
        pytest.param(
            moments(gil=False),
            Surroundings(gpu=True, in_driver=False),
            Wait.COMPUTE,
            Pace.SLOW,
            id="work with a GPU",
        ),
        pytest.param(
            moments(gil=False, faults=100),
            Surroundings(gpu=True, in_driver=True),
            Wait.DEVICE,
            Pace.STUCK,
            id="in the driver",
        ),
        pytest.param(
            moments(), Surroundings(gpu=True), Wait.COMPUTE, Pace.SPINNING, id="Python with a GPU"
        ),
        pytest.param(
            moments(), Surroundings(native=SYNCHRONIZE), Wait.DEVICE, Pace.STUCK, id="C frames"
        ),
        pytest.param(
            moments(gil=False),
            Surroundings(mpi=True, source=source(Loop.BOUNDED, "comm.Allreduce(a, b)")),
            Wait.COLLECTIVE,
            Pace.STUCK,
            id="MPI by its line",
        ),
        pytest.param(
            moments(gil=False),
            Surroundings(mpi=True, source=source(Loop.BOUNDED, "a = a @ a")),
            Wait.COMPUTE,
            Pace.SLOW,
            id="work with MPI loaded",
        ),
    ],
)
def test_what_it_does(seen: list[Moment], around: Surroundings, wait: Wait, pace: Pace) -> None:
    reason, found = refine(COMPUTE, Pace.SPINNING, seen, around)
    assert (reason.wait, found) == (wait, pace)


def test_one_that_was_seen_to_move_is_left_alone() -> None:
    around = Surroundings(gpu=True)
    assert refine(COMPUTE, Pace.SLOW, moments(gil=False), around) == (COMPUTE, Pace.SLOW)


def test_one_that_sleeps_time_and_again() -> None:
    asleep = Reason(Wait.SLEEP)
    seen = moments(wait=Wait.SLEEP)
    for loop, text, wait in (
        (Loop.ASKING, "time.sleep(1)", Wait.ASKING),
        (Loop.WHILE, "time.sleep(1)", Wait.SLEEP),
        (Loop.NONE, 'store.get("key")', Wait.ASKING),
    ):
        around = Surroundings(source=source(loop, text))
        assert refine(asleep, Pace.REPEATING, seen, around) == (
            Reason(wait),
            Pace.REPEATING,
        )
    # Or is met where it looks, by a kernel function that says nothing.
    around = Surroundings(source=source(Loop.ASKING))
    unknown = moments(wait=Wait.UNKNOWN)
    found = refine(Reason(Wait.UNKNOWN), Pace.STUCK, unknown, around)
    assert found == (Reason(Wait.ASKING), Pace.REPEATING)


def test_c_frames_of_mpi_say_which_operation() -> None:
    assert native_wait(MPI) == Reason(Wait.COLLECTIVE, Peers.CERTAIN, "allreduce")
    assert native_wait((WORK,)) is None


def test_a_rank_that_waits_for_its_gpu_is_recognised_from_real_c_frames() -> None:
    [waits, *_] = recorded.views("skip", native=True)
    reading = read(waits)
    assert reading.reason.wait is Wait.DEVICE
    assert reading.condition is Condition.WAITING
    assert reading.frame == "/job/train.py:67 main"
    # Its stack without them only shows that the CPU is busy.
    [busy, *_] = recorded.views("skip")
    assert read(busy).reason.wait is Wait.COMPUTE


BACKWARD = Reason(Wait.EVENT, Peers.BY_LIBRARY, "backward", 3)
REDUCER = (
    Frame("pthread_cond_wait", "libc.so.6", 0),
    Frame("c10d::Reducer::finalize_backward", "libtorch_cpu.so", 0),
    Frame("torch::autograd::Engine::thread_main", "libtorch_cpu.so", 0),
    WORK,
)


@pytest.mark.parametrize(
    ("native", "peers"),
    [
        (REDUCER, Peers.CERTAIN),
        ((REDUCER[0], *REDUCER[2:]), Peers.BY_LIBRARY),  # stuck by itself, for all one knows
        ((), Peers.BY_LIBRARY),
    ],
)
def test_backward_that_waits_for_the_gradients_of_others(
    native: tuple[Frame, ...], peers: Peers
) -> None:
    seen = moments(wait=Wait.EVENT)
    reason, pace = refine(BACKWARD, Pace.STUCK, seen, Surroundings(native=native))
    assert (reason.peers, reason.operation, pace) == (peers, "backward", Pace.STUCK)
