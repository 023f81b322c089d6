"""A job whose launcher starts it again and again, to get stuck at the same line each time."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from support.command import Cli

if TYPE_CHECKING:
    from pathlib import Path

LAUNCHER = """
import subprocess, sys
for _ in range(4):
    subprocess.run([sys.executable, sys.argv[1]])
"""
WORKER = """
import time, timers

def get_stuck():
    with timers.expires(after=0.2, scope="stuck"):
        time.sleep(1000)

{before}
get_stuck()
"""
STEP = """
with timers.expires(after=60, scope="step"):
    pass
"""


@pytest.mark.parametrize(
    ("options", "before", "reaps", "code"),
    [
        (("--give-up-after", "2"), "", 2, 143),
        (("--give-up-after", "2"), STEP, 4, 0),
        ((), "", 4, 0),
    ],
    ids=("useless", "progress", "off"),
)
def test_it_is_ended_where_to_start_it_again_is_no_use(
    tmp_path: Path, options: tuple[str, ...], before: str, reaps: int, code: int
) -> None:
    cli = Cli(tmp_path)
    worker, events = tmp_path / "worker.py", tmp_path / "events.jsonl"
    worker.write_text(WORKER.format(before=before))
    command = [sys.executable, "-c", LAUNCHER, worker]
    ran = cli.run("run", "--http", "off", *options, "--events", events, "--", *command)
    assert ran.returncode == code
    found = [json.loads(line) for line in events.read_text().splitlines()]
    assert sum(event["event"] == "kill worker process" for event in found) == reaps
    said = [event["message"] for event in found if event["event"] == "notice"]
    if code:
        (message,) = said
        assert message.startswith(f"gives up: a worker was reaped at {worker}:6 get_stuck in each")
        assert message in ran.stderr
    else:
        assert said == []
    cli.assert_nothing_left()
