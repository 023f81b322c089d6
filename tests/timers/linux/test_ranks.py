"""Ranks, as every launcher says them and as a process announces them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from timers.linux.ranks import Ranks, announce, ranks_from, ranks_of

if TYPE_CHECKING:
    from pathlib import Path

LAUNCHERS = {
    "torchrun": (
        {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "j",
         "TORCHELASTIC_RESTART_COUNT": "2", "GROUP_RANK": "1"},
        (5, 1, 8, 2),
    ),
    "Open MPI": (
        {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
         "OMPI_COMM_WORLD_SIZE": "4", "PMIX_RANK": "3"},
        (3, 1, 4, None),
    ),
    "PMIx": ({"PMIX_RANK": "2"}, (2, None, None, None)),
    "MPICH": ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}, (1, 1, 2, None)),
    "Slurm": ({"SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_NTASKS": "16"}, (9, 1, 16, None)),
    "Lightning on one node": (
        {"NODE_RANK": "0", "LOCAL_RANK": "2", "WORLD_SIZE": "4"}, (2, 2, 4, None),
    ),
    "Lightning on another": (
        {"NODE_RANK": "1", "LOCAL_RANK": "2", "WORLD_SIZE": "8"}, (None, 2, 8, None),
    ),
    "torchrun below Slurm": (
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "RANK": "12", "LOCAL_RANK": "4",
         "WORLD_SIZE": "16"},
        (12, 4, 16, None),
    ),
    "none": ({"PATH": "/bin"}, (None, None, None, None)),
    "nonsense": ({"RANK": "-1", "LOCAL_RANK": "x", "WORLD_SIZE": "1" * 30}, (None,) * 4),
}  # fmt: skip


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_variables_of_a_launcher(launcher: str) -> None:
    environment, expected = LAUNCHERS[launcher]
    assert ranks_from(environment)[:4] == expected


def test_what_is_closer_to_the_worker_counts_more() -> None:
    strengths = [
        ranks_from(environment).strength
        for environment in (
            {"RANK": "1", "TORCHELASTIC_RUN_ID": "j"},
            {"RANK": "1"},
            {"OMPI_COMM_WORLD_RANK": "1"},
            {"SLURM_PROCID": "1"},
            {},
        )
    ]
    assert strengths == sorted(strengths, reverse=True)
    assert len(set(strengths)) == len(strengths)


def test_a_process_that_is_given_its_rank_later_announces_it(tmp_path: Path) -> None:
    script = (
        "import os, sys, timers\n"
        "os.environ |= {'RANK': '3', 'LOCAL_RANK': '1', 'WORLD_SIZE': '4'}\n"
        "timers.configure_from_env()\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    environment = {**os.environ, "TIMERS_RECORDER_DIR": str(tmp_path)}
    environment.pop("RANK", None)
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert ranks_of(process.pid)[:3] == (3, 1, 4)
        (tmp_path / f"{process.pid}.rank").write_text("RANK=nobody\n")
        assert ranks_of(process.pid) == Ranks()
        (tmp_path / f"{process.pid}.rank").unlink()
        os.mkfifo(tmp_path / f"{process.pid}.rank")  # which would block whoever opens it
        assert ranks_of(process.pid) == Ranks()


def test_nothing_is_announced_without_a_rank_or_a_directory(tmp_path: Path) -> None:
    announce({"TIMERS_RECORDER_DIR": str(tmp_path)})
    announce({"RANK": "1"})
    announce({"RANK": "1", "TIMERS_RECORDER_DIR": str(tmp_path / "missing")})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / f"{os.getpid()}.rank").symlink_to(tmp_path / "elsewhere")
    announce({"RANK": "1", "TIMERS_RECORDER_DIR": str(tmp_path)})
    assert not (tmp_path / "elsewhere").exists()
