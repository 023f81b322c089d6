"""``timers explain``: a job that nobody prepared, asked for by its pid."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from support.children import OTHER_UID, waiting
from support.command import Cli, json_lines
from support.processes import VICTIMS, victim
from support.waiting import eventually
from timers.linux import procfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VICTIM = VICTIMS / "explained.py"


def line_of(text: str) -> int:
    lines = VICTIM.read_text("utf-8").splitlines()
    (found,) = [number for number, line in enumerate(lines, 1) if line.strip() == text]
    return found


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def stuck() -> Iterator[tuple[int, list[int]]]:
    """A launcher and its four processes, the third of which is stuck in a read."""
    with victim("explained", "processes") as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        yield process.pid, pids
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        process.wait()


def asleep(pid: int) -> bool:
    stat = procfs.stat(pid)
    return stat is not None and stat.state == "S"


def test_the_one_that_is_stuck_is_named_by_the_pid_of_the_launcher(
    cli: Cli, stuck: tuple[int, list[int]]
) -> None:
    launcher, pids = stuck
    eventually(lambda: all(map(asleep, pids)), "they wait")
    ran = cli.run("explain", launcher)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    first = ran.stdout.splitlines()[0]
    assert first.startswith(f"Worker {pids[2]} on ")
    assert f"{VICTIM}:{line_of('time.sleep(1000)')} read_shard" in first
    assert "4 workers" in ran.stdout  # so the launcher is none of them
    assert f"  pid {pids[0]} " in ran.stdout.partition("how fast:")[2]
    assert all(procfs.stat(pid) is not None for pid in pids)


def test_the_lines_of_json_are_merged_by_the_report(
    cli: Cli, stuck: tuple[int, list[int]], tmp_path: Path
) -> None:
    launcher, pids = stuck
    eventually(lambda: all(map(asleep, pids)), "they wait")
    page = tmp_path / "page.html"
    ran = cli.run("explain", launcher, "--json", "--html", page)
    events = json_lines(ran.stdout.splitlines())
    assert [event["event"] for event in events] == ["stack dumped"] * 4 + ["hang report"]
    assert [event["worker_pid"] for event in events[:4]] == pids
    assert events[4]["suspects"][0]["pid"] == pids[2]
    assert "read_shard" in page.read_text("utf-8")
    file = tmp_path / "events.jsonl"
    file.write_text(ran.stdout)
    merged = cli.run("report", file)
    assert merged.returncode == 1
    assert f"Worker {pids[2]} on " in merged.stdout


def test_a_lone_script_in_the_middle_of_a_request(cli: Cli) -> None:
    with victim("explained", "request") as process:
        eventually(lambda: asleep(process.pid), "it waits")
        ran = cli.run("explain", process.pid)
    assert ran.returncode == 0  # nobody to compare with, so nobody is accused
    assert f"{VICTIM}:{line_of(GET)} get_page" in ran.stdout
    assert "waiting for a socket" in ran.stdout


GET = 'urllib.request.urlopen(f"http://{address[0]}:{address[1]}/").read()'


def test_a_job_that_moves_is_said_to_and_how_fast(cli: Cli) -> None:
    with victim("explained", "working") as process:
        ran = cli.run("explain", process.pid)
    assert ran.returncode == 0, ran.stdout
    assert ran.stdout.startswith("The job is at work: its worker moves.\n")
    assert f"pid {process.pid} runs at {VICTIM}:" in ran.stdout
    assert "% of a CPU" in ran.stdout


def test_the_ranks_of_a_launcher_are_found_without_a_pid(cli: Cli) -> None:
    """In a /proc in which there may be jobs of others: then it lists them, this one too."""
    job: dict[str, Any] = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "WORLD_SIZE": "2"}
    job["TORCHELASTIC_RUN_ID"] = f"explained-{os.getpid()}"
    with (
        victim("explained", "rank", env={**job, "RANK": "0", "LOCAL_RANK": "0"}) as zero,
        victim("explained", "rank", env={**job, "RANK": "1", "LOCAL_RANK": "1"}) as one,
    ):
        ran = cli.run("explain")
        by_pid = cli.run("explain", one.pid)
    if ran.returncode == 2:
        (line,) = [line for line in ran.stderr.splitlines() if job["TORCHELASTIC_RUN_ID"] in line]
        assert line.split()[0] == str(zero.pid)
        assert "ranks 0-1" in line
    else:
        assert "2 workers" in ran.stdout
    assert "2 workers" in by_pid.stdout  # its sibling is part of the job
    assert "rank 0" in by_pid.stdout


def test_what_is_missing_is_said(cli: Cli) -> None:
    gone = cli.run("explain", 2**22 + 1)
    assert (gone.returncode, gone.stdout) == (2, "")
    assert f"there is no process {2**22 + 1} here" in gone.stderr
    assert cli.run("explain", 0).returncode == 2


@pytest.mark.usefixtures("root")
def test_another_users_process_may_not_be_read(cli: Cli, tmp_path: Path) -> None:
    with waiting() as pid:
        tmp_path.chmod(0o755)
        ran = as_nobody(cli, "explain", str(pid))
    assert ran == (2, f"Error: process {pid} belongs to root: run this as that user, or as root\n")


def as_nobody(cli: Cli, *arguments: str) -> tuple[int, str]:
    """Run it in a child that gives up its rights once all modules are loaded."""
    import subprocess
    import sys

    script = (
        "import os, sys\n"
        "from observability.cli.main import main\n"
        "import observability.explain._find, observability.explain.permission\n"
        f"os.setgroups([]); os.setgid({OTHER_UID}); os.setuid({OTHER_UID})\n"
        "main(sys.argv[1:], prog_name='timers')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=cli.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ran.returncode, ran.stderr


def test_watching_ends_with_the_job(cli: Cli) -> None:
    with (
        victim("explained", "working") as process,
        cli.start("explain", process.pid, "--watch", "--interval", 0.1) as watching,
    ):
        assert watching.stdout is not None
        reports = 0
        for line in watching.stdout:
            reports += line.startswith("how fast:")
            if reports == 2:
                process.kill()
                process.wait()
        assert reports >= 2
        assert watching.wait(60) == 0
