"""Start jobs of MPI, where there is one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys

import pytest

__all__ = ["mpirun"]


def mpirun(ranks: int, *, with_mpi4py: bool = True) -> list[str]:
    """What to put before a script, so that this Python runs it in so many ranks.

    Skips the test where MPI (or mpi4py) is not installed, and fails it in CI.
    """
    found = shutil.which("mpirun")
    if found is None or (with_mpi4py and importlib.util.find_spec("mpi4py") is None):
        if os.environ.get("CI"):
            pytest.fail("mpirun or mpi4py is not installed, and CI must not skip this")
        pytest.skip("no mpirun (Debian has it in openmpi-bin), or no mpi4py")
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    # Ranks wait by spinning: on a busy machine they had better let the others run.
    options = ["--oversubscribe", "--mca", "mpi_yield_when_idle", "1"]
    return [found, *root, *options, "-n", str(ranks), sys.executable]
