"""A job that hangs under ``timers run``: who holds up the others is told before the kill."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from support.command import TIMERS, Cli, get, json_lines
from support.log_lines import of
from support.processes import VICTIMS
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

RANKS = 4
ODD = 2
FRAME = "meeting.py"


class Hung:
    """What there is to see of a job of which one rank was reaped."""

    def __init__(self, events: Path) -> None:
        self.events = events
        self.page: dict[str, Any] = {}
        self.metrics = ""

    @property
    def lines(self) -> list[dict[str, Any]]:
        return json_lines(self.events.read_text().splitlines())

    def named(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]


@contextlib.contextmanager
def hung(
    directory: Path,
    how: str,
    after: float,
    *options: str,
    patience: float = 10,
    reaps: int = 1,
    env: Mapping[str, str] | None = None,
) -> Iterator[Hung]:
    """Run the job until as many of its ranks have been reaped."""
    seen = Hung(directory / "events.jsonl")
    arguments = ["run", "--events", str(seen.events), "--http", "127.0.0.1:0", *options, "--"]
    job = ["sh", "-c", 'echo "$TIMERS_HTTP"; exec "$@"', "sh", sys.executable]
    victim = [str(VICTIMS / "meeting.py"), str(RANKS), str(ODD), how, str(after)]
    victim.append(str(patience))
    with Cli(directory / "cli").start(*arguments, *job, *victim, env=env) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        assert process.stdout.readline() == "ready\n"

        def reaped() -> bool:
            seen.page = json.loads(get(address, "/timers")[1])
            return sum("outcome" in reap for reap in seen.page["reaps"]) == reaps

        eventually(reaped, "the reaps", timeout=90)
        seen.metrics = get(address, "/metrics")[1]
        process.communicate(timeout=60)
    yield seen


def test_one_rank_is_named_before_it_is_killed(tmp_path: Path) -> None:
    with hung(tmp_path, "silent", 3) as seen:
        (report,) = seen.named("hang report")
        assert report["verdict"] == "one_suspect"
        assert [each["rank"] for each in report["suspects"]] == [ODD]
        assert report["sentence"].startswith(f"Rank {ODD} ")
        assert FRAME in report["sentence"]
        assert "read_batch" in report["sentence"]
        order = [line["event"] for line in seen.lines]
        assert order.index("hang report") < order.index("kill worker process")
        dumped = {line["rank"]: line for line in seen.named("stack dumped")}
        assert sorted(dumped) == list(range(RANKS))
        assert {rank for rank, line in dumped.items() if line["expired"]} == {ODD}
        assert [line["rank"] for line in seen.named("kill worker process")] == [ODD]
        assert 'timers_hang_reports_total{verdict="one_suspect"} 1.0' in seen.metrics
        assert seen.page["hang"]["sentence"] == report["sentence"]
        assert seen.page["hang"]["tree"]
        assert [reap["rank"] for reap in seen.page["reaps"]] == [ODD]
        told = subprocess.run(
            [*TIMERS, "report", str(seen.events)], capture_output=True, text=True, check=False
        )
        assert told.returncode == 1
        assert f"Rank {ODD} " in told.stdout
        assert "read_batch" in told.stdout


def test_a_rank_that_moves_is_slow_and_nobody_is_accused(tmp_path: Path) -> None:
    sampled = ("--sample-from", "1", "--sample-at", "0.15,0.3,0.45,0.6,0.8,0.9")  # some fail
    with hung(tmp_path, "slow", 6, *sampled) as seen:
        (report,) = seen.named("hang report")
        assert report["verdict"] == "slow"
        assert report["suspects_count"] == 0
        assert [each["rank"] for each in report["lagging"]] == [ODD]
        assert [line["rank"] for line in seen.named("kill worker process")] == [ODD]


def test_without_the_report_only_the_expired_worker_is_looked_at(tmp_path: Path) -> None:
    with hung(tmp_path, "silent", 3, "--no-hang-report") as seen:
        assert [line["rank"] for line in seen.named("stack dumped")] == [ODD]
        assert seen.named("hang report") == []
        assert seen.page["hang"] is None
        durations = {line["scopes"][0]["scope_id"]: line for line in seen.named("scope durations")}
        assert durations == {}  # no block was ever left


def test_those_who_expire_meanwhile_wait_for_the_report(tmp_path: Path) -> None:
    with hung(tmp_path, "silent", 3, patience=1.05, reaps=RANKS) as seen:
        order = [line["event"] for line in seen.lines]
        assert order.count("hang report") == 1
        assert order.count("kill worker process") == RANKS
        assert order.index("hang report") < order.index("kill worker process")
        (report,) = seen.named("hang report")
        assert [each["rank"] for each in report["suspects"]] == [ODD]


def test_the_bound_holds_when_no_stack_can_be_had(tmp_path: Path) -> None:
    endless = tmp_path / "py-spy"
    endless.write_text("#!/bin/sh\nexec sleep 1000\n")
    endless.chmod(0o755)
    tools = {"TIMERS_PY_SPY": str(endless), "TIMERS_PYSTACK": str(endless)}
    with hung(tmp_path, "silent", 3, "--dump-timeout", "2", env=tools) as seen:
        (kill,) = seen.named("kill worker process")
        assert kill["rank"] == ODD
        dump = next(line for line in seen.named("stack dumped") if line["rank"] == ODD)
        assert "timed out" in dump["stack_error"]
        assert all(report["suspects_count"] == 0 for report in seen.named("hang report"))


def test_by_kill_culprit_the_one_without_a_deadline_is_ended_for_those_that_wait(
    tmp_path: Path,
) -> None:
    """The deadline of the odd one is far away; the launcher is the one that ends the others."""
    with hung(tmp_path, "silent", 600, "--kill", "culprit", patience=0.005) as seen:
        kills = {line["rank"]: line["outcome"] for line in seen.named("kill worker process")}
        assert kills[ODD] == "killed"
        assert {line["rank"] for line in seen.named("timer expired")} == set(range(RANKS))
        assert {outcome for rank, outcome in kills.items() if rank != ODD} <= {"already_gone"}
        (first, *_) = seen.named("hang report")
        assert [each["rank"] for each in first["suspects"]] == [ODD]


WARNED = """
import sys, threading, timers

timers.configure_from_env()
with timers.expires(after=600, scope="step", warn_after=0.2):
    sys.stdin.read()
"""


def test_a_block_that_takes_longer_than_expected_is_warned_of(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    arguments = ["run", "--events", events, "--http", "off", "--", sys.executable, "-c", WARNED]
    with Cli(tmp_path / "cli").start(*arguments) as process:
        (warning,) = eventually(lambda: of(events, "timer warning"), "the warning")
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert (warning["scope_id"], warning["after_seconds"]) == ("step", 600)
    assert warning["elapsed_seconds"] >= 0.2
