"""Jobs of MPI that nobody changed: timed when they work, named when they are stuck."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from support.command import Cli, get
from support.log_lines import block_counts, of, read_so_far
from support.mpi import mpirun
from support.processes import VICTIMS
from support.waiting import eventually
from timers.auto import auto_environment

if TYPE_CHECKING:
    from pathlib import Path

FREE = ("--http", "127.0.0.1:0")
JOB = str(VICTIMS / "plain_mpi.py")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def test_a_job_that_works_is_timed_and_nothing_is_reported(cli: Cli, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    ran = cli.run("run", *FREE, "--events", events, "--", *mpirun(2), JOB, "-1")
    assert ran.returncode == 0, ran.stderr
    assert [event["message"] for event in read_so_far(events) if event["level"] != "info"] == []
    assert block_counts(events) == {
        "MPI_Cart_create": 2,
        "MPI_Comm_split": 2,
        "MPI_Comm_dup": 2,
        "MPI_Allreduce": 2 * 2 * 5,
        "MPI_Recv": 2 * 5,
        "MPI_Sendrecv": 2 * 5,
        "MPI_Bcast": 2,
        "MPI_Gather": 2,
        "MPI_Barrier": 2,
    }
    assert sorted(event["rank"] for event in of(events, "worker exited")) == [0, 1]


def test_ranks_that_wait_too_long_name_the_one_that_is_stuck(cli: Cli, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    options = (*FREE, "--stall-after", "0", "--auto-after", "MPI_Barrier=1", "--events", events)
    with cli.start(
        "run", *options, "--", *mpirun(3), JOB, "1", stderr=subprocess.DEVNULL
    ) as process:
        # On a busy machine the first look may find it on its way there.
        report, *_ = eventually(lambda: named(events), "it is named", timeout=100)
        expired = of(events, "timer expired")
        assert {event["scope_id"] for event in expired} == {"MPI_Barrier"}
        assert {event["rank"] for event in expired} <= {0, 2}
        assert "barrier" in report["sentence"].lower()
        assert "timers/auto" not in json.dumps(report)
        metrics = scraped(events)
        assert 'timers_scope_duration_seconds_count{scope="MPI_Allreduce"} 30.0' in metrics
        assert 'timers_overdue{scope="MPI_Barrier"} 2.0' in metrics
        assert of(events, "kill worker process") == []
        process.terminate()
        process.wait(60)


def named(events: Path) -> list[dict[str, Any]]:
    return [
        event
        for event in of(events, "hang report")
        for suspect in event["suspects"]
        if suspect["rank"] == 1 and suspect["frame"].endswith(" read_shard")
    ]


def scraped(events: Path) -> str:
    (started,) = of(events, "watchdog started")
    status, body, _ = get(started["url"].removeprefix("http://").strip("/"), "/metrics")
    assert status == 200
    return body


@pytest.mark.parametrize("kinds", ["off", "step,collective"])
def test_it_is_one_kind_of_a_list(cli: Cli, tmp_path: Path, kinds: str) -> None:
    events = tmp_path / "events.jsonl"
    ran = cli.run("run", *FREE, "--auto", kinds, "--events", events, "--", *mpirun(2), JOB, "-1")
    assert ran.returncode == 0, ran.stderr
    assert block_counts(events) == {}


@pytest.mark.parametrize("late", [(), ("late",)], ids=["at import", "by the program"])
def test_pickle_and_inspect_see_no_difference(tmp_path: Path, late: tuple[str, ...]) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TIMERS_")}
    nowhere = {"TIMERS_FILE": str(tmp_path / "pipe"), "TIMERS_ON_ERROR": "warn"}
    with_hooks = {**plain, **nowhere, **auto_environment(plain, "all", kill=False)}
    found = []
    for environment, first in ((plain, "False False"), (with_hooks, "True True")):
        ran = subprocess.run(
            [*mpirun(1), str(VICTIMS / "mpi_probe.py"), *late],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        said, _, rest = ran.stdout.partition("\n")
        assert (said, ran.returncode) == (first, 0), ran.stderr
        found.append(json.loads(rest))
    assert found[1] == found[0]
