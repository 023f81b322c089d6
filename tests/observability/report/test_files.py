"""Event files of any size, in any order, of any kind; and what is none."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from hangs.simulated import IN_ALL_REDUCE, OUTER, looking, view
from observability.report._deadlines import Advice
from observability.report._files import EventFiles, UnusableError
from observability.report.command import SUSPECT, UNUSABLE, report
from support.children import same_path
from support.hang_events import BEGIN, hang, released, write
from timers.server.statistics import WARM_UP_USES
from timers.stacks.dump import Frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

TOP = Path(__file__).resolve().parents[3]
MEBIBYTE = 1 << 20
STUCK = hang(
    view(rank, *(looking(1000 + rank, frames, at=at, cpu=2.0) for at in (0.0, 50.0)))
    for rank, frames in enumerate((IN_ALL_REDUCE, (Frame("read", "/job/data.py", 88), *OUTER)))
)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(report, arguments)


def names(paths: list[str], wanted: set[str]) -> list[Any]:
    with EventFiles(paths, wanted) as files:
        return [event["n"] for event in files.events()]


def line(number: int, *, at: int, name: str = "kept", **more: Any) -> dict[str, Any]:
    moment = f"2026-01-31T12:{at // 60:02}:{at % 60:02}Z"
    return {"event": name, "timestamp": moment, "n": number, **more}


def test_events_come_in_the_order_of_their_time_whatever_that_of_the_files(tmp_path: Path) -> None:
    late = write(tmp_path / "late", [line(n, at=n) for n in (3, 5, 4)])
    early = write(tmp_path / "early", [line(n, at=n) for n in (1, 2, 6)])
    assert names([late, early], {"kept"}) == [1, 2, 3, 4, 5, 6]


def test_events_of_the_same_moment_stay_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "events", [line(n, at=7) for n in range(50)])
    assert names([file], {"kept"}) == list(range(50))


def test_what_can_be_read_only_once_is_as_good(tmp_path: Path) -> None:
    file = write(tmp_path / "events", STUCK)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with open(file, "rb") as source:
        content = source.read()
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    result = run(str(pipe))
    writer.join()
    assert result.exit_code == SUSPECT
    assert result.stdout == run(file).stdout


def test_the_warm_up_is_what_came_first_whatever_was_read_first() -> None:
    uses = [released(view(0), "step", float(n), at=BEGIN + n) for n in range(1, 40)]
    advice = Advice()
    for event in reversed(uses):
        advice.take(event)
    [found] = advice.scopes()
    assert found.warm_up_max_seconds == WARM_UP_USES
    assert found.max_seconds == 39


def test_a_document_that_shows_some_events_is_no_event_file() -> None:
    result = run(str(TOP / "README.md"))
    assert result.exit_code == UNUSABLE
    assert re.match(
        r"Error: not event files, too few events in .*README.md; the first line", result.stderr
    )
    assert result.stdout == ""


def test_a_log_of_everything_with_a_hang_in_it_is_one(tmp_path: Path) -> None:
    file = tmp_path / "log"
    write(file, STUCK)
    file.write_bytes(b"step done\n" * 5000 + file.read_bytes())
    assert run(str(file)).exit_code == SUSPECT


def test_a_file_that_is_cut_meanwhile_ends_there(tmp_path: Path) -> None:
    file = tmp_path / "events"
    write(file, [line(n, at=n) for n in range(5)])
    with EventFiles([str(file)], {"kept"}) as files:
        os.truncate(file, file.stat().st_size // 2)
        assert [event["n"] for event in files.events()] == [0, 1]


def test_what_is_no_run_closes_the_files(tmp_path: Path) -> None:
    file = write(tmp_path / "events", [line(1, at=1, run_id="a"), line(2, at=2, run_id="b")])
    with pytest.raises(UnusableError, match="2 runs"):
        EventFiles([file], {"kept"})


def everything(size: int) -> Iterator[str]:
    """A log at level debug of ``size`` bytes, hangs included."""
    written = number = 0
    while written < size:
        number += 1
        second = number // 100
        moment = f"2026-01-{second // 86400 + 1:02}T{second // 3600 % 24:02}:{second // 60 % 60:02}"
        common = {
            "timestamp": f"{moment}:{second % 60:02}.{number % 100:02}0000Z",
            "run_id": "job-7", "host": f"node{number % 4}", "worker_pid": 1000 + number % 64,
            "rank": number % 64, "scope_id": f"step{number % 7}", "after_seconds": 60.0,
        }  # fmt: skip
        if number % 3000 < 64:
            extra = {"frames": [f"/job/train.py:{n} step_{n}" for n in range(150)]}
            event: dict[str, Any] = {"event": "stack dumped", "stack": [extra]}
        elif number % 2:
            event = {"event": "timer acquired"}
        else:
            event = {"event": "timer released", "elapsed_seconds": number % 997 / 100}
        text = json.dumps({**event, **common}) + "\n"
        written += len(text)
        yield text


# Of this program alone: ru_maxrss starts with what the parent had when it was forked.
PEAK = """
import re, sys
from observability.report.command import report
try:
    report(sys.argv[1:])
finally:
    status = open("/proc/self/status").read()
    print(re.search("VmHWM:\\s+(\\d+) kB", status)[1], file=sys.stderr)
"""


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A log of everything, and one of ten times the size."""
    directory = tmp_path_factory.mktemp("logs")
    small, large = directory / "small", directory / "large"
    for path, size in ((small, 4), (large, 40)):
        with path.open("w") as log:
            log.writelines(everything(size * MEBIBYTE))
    return small, large


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--json"], ["--json", "--all"], ["--deadlines"]])
def test_memory_does_not_grow_with_the_files(logs: tuple[Path, Path], options: list[str]) -> None:
    def peak(file: Path) -> int:
        ran = subprocess.run(
            [sys.executable, "-c", PEAK, *options, str(file)],
            capture_output=True,
            text=True,
            env=same_path(),
            check=False,
        )
        assert ran.returncode in (0, 1), ran.stderr
        return int(ran.stderr.splitlines()[-1]) << 10

    small, large = map(peak, logs)
    assert large < small + 12 * MEBIBYTE
    assert large < 120 * MEBIBYTE
