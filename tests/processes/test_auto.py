"""Jobs that nobody changed: timed when they work, named when they are stuck."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support.command import Cli
from support.log_lines import block_counts, of, read_so_far
from support.processes import VICTIMS
from support.torch import require_torch
from support.waiting import eventually
from timers.auto import auto_environment

if TYPE_CHECKING:
    from pathlib import Path

require_torch()

FREE = ("--http", "127.0.0.1:0")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
DDP = [*TORCHRUN, "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
DDP += [str(VICTIMS / "plain_ddp.py")]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def test_a_job_that_works_is_timed_and_nothing_is_reported(cli: Cli, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    command = [*DDP, "-1", "5", tmp_path / "model"]
    ran = cli.run("run", *FREE, "--events", events, "--", *command)
    assert ran.returncode == 0, ran.stderr
    assert [event["message"] for event in read_so_far(events) if event["level"] != "info"] == []
    assert block_counts(events) == {
        "init_process_group": 2,
        "next_batch": 2 * 2 * 6,  # of each epoch one more, which ends it
        "step": 2 * 2 * 5,
        "all_reduce": 2 * 2,
        "save": 2,
        "load": 2,
        "barrier": 2,
        "destroy_process_group": 2,
    }
    exits = of(events, "worker exited")
    assert sorted(event["rank"] for event in exits) == [0, 1]


def test_a_job_that_is_stuck_is_reported_with_rank_and_line(cli: Cli, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    command = [*DDP, "1", "5", tmp_path / "model"]
    options = (*FREE, "--stall-after", "2", "--events", events)

    def reported() -> list[dict[str, Any]]:
        # On a busy machine its start may look like a stall as well, of which nobody is to blame.
        return [event for event in of(events, "job stalled") if event["suspects"]]

    with cli.start("run", *options, "--", *command, stderr=subprocess.DEVNULL) as process:
        event, *_ = eventually(reported, "it is reported", timeout=100)
        (suspect,) = event["suspects"]
        assert suspect["rank"] == 1
        assert suspect["frame"].endswith("read_shard")
        assert "all_reduce" in event["sentence"]
        assert "timers/auto" not in event["sentence"]
        assert of(events, "timer expired") == []
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize(
    ("option", "code", "outcomes"),
    [((), 0, []), (("--auto-action", "kill"), 137, ["killed"])],
    ids=("report", "kill"),
)
def test_an_expiry_is_reported_and_kills_only_where_that_is_asked_for(
    cli: Cli, tmp_path: Path, option: tuple[str, ...], code: int, outcomes: list[str]
) -> None:
    events = tmp_path / "events.jsonl"
    seconds = "100" if outcomes else "1"
    command = [sys.executable, VICTIMS / "automatic.py", seconds]
    ran = cli.run("run", *FREE, *option, "--events", events, "--", *command)
    assert ran.returncode == code
    (expired,) = of(events, "timer expired")
    assert expired["scope_id"] == "save"
    assert [event["outcome"] for event in of(events, "kill worker process")] == outcomes


@pytest.mark.parametrize("board", ["on", "off"])
def test_a_block_of_the_jobs_own_of_the_same_name_stays_what_it_is(cli: Cli, board: str) -> None:
    """Over messages an end of ours would be taken for one of its."""
    command = [sys.executable, VICTIMS / "automatic.py", "own"]
    ran = cli.run("run", *FREE, "--", *command, env={"TIMERS_BOARD": board})
    assert ran.returncode == 137
    assert ran.stdout.strip() == str(board == "on")


def test_off_is_off(cli: Cli) -> None:
    script = "import os; print(os.environ.get('PYTHONPATH', ''))"
    own = cli.environment.get("PYTHONPATH", "")
    for arguments, expected in (
        (("--auto", "off"), own),
        (
            ("--auto", "step"),
            auto_environment({"PYTHONPATH": own}, "step", kill=False)["PYTHONPATH"],
        ),
    ):
        ran = cli.run("run", *FREE, *arguments, "--", sys.executable, "-c", script)
        assert ran.stdout.strip() == expected
    wrong = cli.run("run", "--auto", "steps", "--", "true")
    assert wrong.returncode == 2
    assert "'steps'" in wrong.stderr


def test_compiler_pickle_and_inspect_see_no_difference(tmp_path: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TIMERS_")}
    nowhere = {"TIMERS_FILE": str(tmp_path / "pipe"), "TIMERS_ON_ERROR": "warn"}
    with_hooks = {**plain, **nowhere, **auto_environment(plain, "all", kill=False)}
    ran = [
        subprocess.Popen(
            [sys.executable, str(VICTIMS / "torch_probe.py")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in (plain, with_hooks)
    ]
    found = []
    for process, has_hooks in zip(ran, ("False", "True"), strict=True):
        with process:
            out, error = process.communicate(timeout=110)
        first, _, rest = out.partition("\n")
        assert first == has_hooks, error
        found.append(json.loads(rest))
    without, with_them = found
    assert "_c10d_functional.all_reduce" in without["reduce True"][0]
    assert with_them == without
