from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from observability.explain.rates import Counts, Rate, count, rates


def counts(at: float, cpu: float, switches: int | None, io: int | None) -> Counts:
    return Counts(at, 7, cpu, switches, io)


def test_what_went_on_is_divided_by_the_time() -> None:
    found = rates({1: counts(10.0, 1.0, 5, 0)}, {1: counts(12.0, 2.0, 25, 4_000_000)})
    assert found == {1: Rate(0.5, 10.0, 2_000_000.0)}
    assert str(found[1]) == "50% of a CPU, 10 wake-ups/s, 2 MB/s read and written"


def test_what_is_not_known_is_left_out() -> None:
    found = rates({1: counts(10.0, 1.0, None, None)}, {1: counts(12.0, 1.0, 5, 9)})
    assert str(found[1]) == "0% of a CPU"


def test_a_pid_that_is_another_process_now_has_no_rate() -> None:
    recycled = counts(12.0, 0.0, 0, 0)._replace(start_time=8)
    assert rates({1: counts(10.0, 9.0, 9, 9), 2: counts(10, 0, 0, 0)}, {1: recycled}) == {}


@given(st.floats(0, 1e13))
def test_bytes_are_short_to_read(amount: float) -> None:
    shown = str(Rate(0.0, None, amount)).removeprefix("0% of a CPU").removeprefix(", ")
    assert len(shown) <= len("10000.0 GB/s read and written")
    assert ("B/s" in shown) == (amount > 0)


def test_this_process_is_counted() -> None:
    found = count([os.getpid(), 2**22 + 1])
    assert list(found) == [os.getpid()]
    assert found[os.getpid()].io_bytes
    assert found[os.getpid()].cpu_seconds >= 0
