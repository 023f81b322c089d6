"""The clocks of this host."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from timers.clock import SYSTEM_CLOCK, SystemClock


def test_the_system_clocks_are_the_kernels() -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    monotonic = SYSTEM_CLOCK.monotonic_ns()
    assert before <= monotonic <= time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    wall_before = time.time()
    assert wall_before <= SYSTEM_CLOCK.time() <= time.time()


def test_it_is_one_clock_for_all_processes_of_the_host() -> None:
    # Deadlines cross from the worker to the server as numbers of this clock.
    script = "from timers.clock import SYSTEM_CLOCK; print(SYSTEM_CLOCK.monotonic_ns())"
    before = SystemClock().monotonic_ns()
    there = int(subprocess.check_output([sys.executable, "-c", script], env=dict(os.environ)))
    assert before < there < SystemClock().monotonic_ns()
