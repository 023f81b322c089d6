"""Ranks, as every launcher says them and as a process announces them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.waiting import eventually
from timers.linux import procfs
from timers.linux.ranks import Ranks, announce, job_environment, ranks_from, ranks_of

if TYPE_CHECKING:
    from collections.abc import Iterator
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
    "Lightning in a shell of Slurm": (
        {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1",
         "NODE_RANK": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "2"},
        (1, 1, 2, None),
    ),
    "Slurm, whose names a script has translated": (
        {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4",
         "NODE_RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4"},
        (3, 1, 4, None),
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


STARTS = """
import json, os, subprocess, sys
waits = "import sys; sys.stdin.read()"
children = [
    subprocess.Popen([sys.executable, "-c", waits], env=os.environ | each, stdin=subprocess.PIPE)
    for each in json.loads(sys.argv[1])
]
print(json.dumps([each.pid for each in children]), flush=True)
sys.stdin.read()
"""
SPAWNS = """
import json, multiprocessing, os, sys, time
from multiprocessing.resource_tracker import _resource_tracker
context = multiprocessing.get_context("spawn")
children = []
for each in json.loads(sys.argv[1]):
    os.environ |= each
    children.append(context.Process(target=time.sleep, args=(1000,), daemon=True))
    children[-1].start()
print(json.dumps([_resource_tracker._pid, *(each.pid for each in children)]), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def parent(script: str, *given: dict[str, str], **own: str) -> Iterator[tuple[int, list[int]]]:
    """A process and its children, which are given these variables; it has none but ``own``."""
    environment = {k: v for k, v in os.environ.items() if "RANK" not in k and "WORLD_SIZE" not in k}
    with subprocess.Popen(
        [sys.executable, "-c", script, json.dumps(given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**environment, **own},
    ) as process:
        assert process.stdout is not None
        pids = json.loads(process.stdout.readline())
        # What starts them may go on before the kernel shows what they have become.
        eventually(lambda: all(executed(pid, process.pid) for pid in pids), "all are started")
        yield process.pid, pids
        assert process.stdin is not None
        process.stdin.close()


def executed(pid: int, parent: int) -> bool:
    command = procfs.command(pid)
    return bool(command and procfs.environment(pid)) and command != procfs.command(parent)


def lightnings(local_rank: int, **more: str) -> dict[str, str]:
    """What Lightning's own launcher gives a process."""
    job = {"NODE_RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    return {**job, "LOCAL_RANK": str(local_rank), **more}


def test_who_starts_all_ranks_but_the_first_is_the_first() -> None:
    with parent(STARTS, lightnings(1), lightnings(2)) as (first, others):
        assert [ranks_of(pid)[:3] for pid in (first, *others)] == [(n, n, 3) for n in range(3)]
        assert len({ranks_of(pid).strength for pid in (first, *others)}) == 1
        assert job_environment(first)["MASTER_PORT"] == "29500"
    elsewhere = [lightnings(n, NODE_RANK="1", WORLD_SIZE="6") for n in (1, 2)]
    with parent(STARTS, *elsewhere) as (first, _):
        assert ranks_of(first)[:3] == (None, 0, 6)


def test_so_it_is_in_a_shell_of_slurm() -> None:
    shell = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}
    with parent(STARTS, lightnings(1), lightnings(2), **shell) as (first, others):
        assert [ranks_of(pid).rank for pid in (first, *others)] == [0, 1, 2]


@pytest.mark.parametrize(
    "given",
    [
        [lightnings(0), lightnings(1), lightnings(2)],
        [lightnings(1, RANK="1"), lightnings(2, RANK="2")],
        [{"LOCAL_RANK": "1"}],
        [{}],
    ],
    ids=("all ranks", "ranks of torchrun", "no job", "no ranks"),
)
def test_other_launchers_are_no_rank(given: list[dict[str, str]]) -> None:
    with parent(STARTS, *given) as (launcher, _):
        assert ranks_of(launcher) == Ranks()


def test_what_several_children_of_multiprocessing_inherit_is_nobodys_rank() -> None:
    inherited = {"LOCAL_RANK": "0", "NODE_RANK": "0", "WORLD_SIZE": "2"}
    with parent(SPAWNS, inherited, inherited) as (launcher, pids):
        assert [ranks_of(pid) for pid in (launcher, *pids)] == [Ranks()] * 4


def test_what_each_of_them_was_given_is_its_own() -> None:
    with parent(SPAWNS, {"RANK": "0"}, {"RANK": "1"}) as (_, (tracker, *pids)):
        assert [ranks_of(pid).rank for pid in pids] == [0, 1]
        assert ranks_of(tracker) == Ranks()
