"""``examples/quickstart`` does what its README says."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.command import Cli, json_lines

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "quickstart"
RUN = [sys.executable, str(EXAMPLE / "run.py")]
SECONDS = 100


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def test_the_stuck_worker_is_explained_killed_and_restarted(cli: Cli, tmp_path: Path) -> None:
    events = tmp_path / "events"
    with cli.start("run", "--http", "127.0.0.1:0", "--events", events, "--", *RUN) as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output

    killed = re.search(r"worker 1: pid (\d+) was killed by SIGKILL", output)
    assert killed, output
    lines = json_lines(events.read_text().splitlines())
    of_it = [line for line in lines if line.get("worker_pid") == int(killed[1])]
    names = [line["event"] for line in of_it]
    assert names == ["timer expired", "stack dumped", "kill worker process"]
    source = (EXAMPLE / "worker.py").read_text().splitlines()
    (line,) = (number for number, text in enumerate(source, 1) if ".getresponse()" in text)
    assert of_it[1]["frame"] == f"{EXAMPLE / 'worker.py'}:{line} fetch"
    assert of_it[2]["outcome"] == "killed"

    checked = re.search(r"all (\d+) files fetched, compressed and checked", output)
    assert checked, output
    finished = lines[-1]
    assert finished["event"] == "run finished"
    assert finished["acquires"] == int(checked[1]) + 1  # one file was fetched twice
    assert re.search(
        r"^totals: \d+ acquires, \d+ releases, 1 expirations, 1 reaps$", output, re.MULTILINE
    )
    for worker in range(3):
        assert re.search(rf"^worker {worker}: pid \d+ has finished$", output, re.MULTILINE)
    cli.assert_nothing_left()


def test_it_does_not_start_without_a_watchdog(cli: Cli) -> None:
    done = subprocess.run(
        RUN,
        env=cli.environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert "timers run -- python" in done.stderr


def test_nothing_is_left_when_it_is_told_to_end(cli: Cli) -> None:
    with cli.start("run", "--http", "off", "--", *RUN, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("worker 0: pid ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 128 + signal.SIGTERM
        cli.assert_nothing_left()
