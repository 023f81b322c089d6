"""Stuck, spinning, slow: what several samples at one thread show."""

from __future__ import annotations

import pytest

from observability.samples._pace import Moment, compare
from observability.samples.types import Pace
from observability.samples.waits import Wait
from timers.stacks.take import Frame

A, B, C = (Frame(name, "/job/work.py", line) for name, line in (("a", 1), ("b", 2), ("c", 3)))
A_LATER = Frame("a", "/job/work.py", 7)
LAMBDA = Frame("a.<locals>.<lambda>", "/job/work.py", 7)


def moments(
    *places: tuple[Frame, ...],
    wait: Wait = Wait.NETWORK,
    cpu: float | None = 0.0,
    switches: int | None = None,
) -> list[Moment]:
    """Samples ten seconds apart; ``cpu`` and ``switches`` are what is added between two of them."""
    return [
        Moment(
            frames=place,
            wait=wait,
            at_seconds=10.0 * number,
            cpu_seconds=None if cpu is None else cpu * number,
            switches=None if switches is None else switches * number,
        )
        for number, place in enumerate(places)
    ]


@pytest.mark.parametrize(
    ("samples", "pace"),
    [
        pytest.param(moments(), Pace.UNKNOWN, id="never"),
        pytest.param(moments((A,)), Pace.UNKNOWN, id="once"),
        pytest.param(moments((A,), (A,)), Pace.STUCK, id="waits"),
        pytest.param(moments((A,), (A,), cpu=None), Pace.STUCK, id="waits, CPU unknown"),
        pytest.param(moments((A,), (B,)), Pace.SLOW, id="moved"),
        pytest.param(moments((A,), (A_LATER,)), Pace.SLOW, id="moved within its function"),
        pytest.param(moments((A,), (B,), (A,)), Pace.SLOW, id="came back"),
        pytest.param(moments((B,), (A,), (A,)), Pace.STUCK, id="got stuck on the way"),
        pytest.param(
            moments((B,), (A,), (A,), switches=0), Pace.STUCK, id="got stuck, did not wake up"
        ),
        pytest.param(moments((B,), (A,), (A,), switches=9), Pace.SLOW, id="a loop that waits"),
        pytest.param(moments((A,), (A,), switches=9), Pace.STUCK, id="waits with a timeout"),
        pytest.param(
            moments((A,), (A,), wait=Wait.SLEEP, switches=0), Pace.STUCK, id="one long sleep"
        ),
        pytest.param(
            moments((A,), (A,), wait=Wait.SLEEP, switches=9), Pace.REPEATING, id="short sleeps"
        ),
        pytest.param(moments((A,), (A,), cpu=2.0), Pace.UNKNOWN, id="waits and works"),
        pytest.param(
            moments(*[(A,)] * 12, wait=Wait.COMPUTE, cpu=10.0), Pace.SPINNING, id="one function"
        ),
        pytest.param(
            moments(*[(A,), (A_LATER,)] * 6, wait=Wait.COMPUTE, cpu=10.0),
            Pace.SPINNING,
            id="lines of a loop",
        ),
        pytest.param(
            moments(*[(A,), (LAMBDA, A)] * 6, wait=Wait.COMPUTE, cpu=10.0),
            Pace.SPINNING,
            id="a lambda of the function",
        ),
        pytest.param(
            moments(*[(A,)] * 11, wait=Wait.COMPUTE, cpu=10.0), Pace.UNKNOWN, id="too few samples"
        ),
        pytest.param(
            moments(*[(A,)] * 12, wait=Wait.COMPUTE, cpu=10.0, switches=90),
            Pace.UNKNOWN,
            id="computes and waits in turn",
        ),
        pytest.param(
            moments(*[(A,)] * 12, wait=Wait.COMPUTE, cpu=10.0, switches=3),
            Pace.SPINNING,
            id="paused by each look",
        ),
        pytest.param(
            moments(*[(A,)] * 12, wait=Wait.COMPUTE, cpu=1.0),
            Pace.SPINNING,
            id="a machine with too few CPUs",
        ),
        pytest.param(
            moments(*[(A,)] * 12, wait=Wait.COMPUTE, cpu=0.0), Pace.UNKNOWN, id="no CPU time"
        ),
        pytest.param(
            moments((B,), *[(A,)] * 12, wait=Wait.COMPUTE, cpu=10.0), Pace.SLOW, id="moved before"
        ),
        pytest.param(
            moments((A,), (B, A), (A,), (C, A), wait=Wait.COMPUTE, cpu=10.0),
            Pace.SLOW,
            id="computes in several functions",
        ),
    ],
)
def test_the_pace(samples: list[Moment], pace: Pace) -> None:
    assert compare(samples) is pace


def test_a_burst_of_looks_is_too_short_for_cpu_time() -> None:
    burst = [Moment((A,), Wait.COMPUTE, 0.01 * number, 0.01 * number, None) for number in range(19)]
    assert compare(burst) is Pace.UNKNOWN
