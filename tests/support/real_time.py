"""Tests of what is scheduled in real time."""

from __future__ import annotations

import os

import pytest

__all__ = ["require_real_time"]


def require_real_time() -> None:
    """Skip the test where this process may not do that, fail it in CI."""
    if os.nice(0):
        pytest.skip("these tests were started with a niceness, which is respected")
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        reason = "scheduling in real time needs CAP_SYS_NICE"
        if "CI" in os.environ:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
