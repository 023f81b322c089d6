"""Jobs without a timer in them that stand still under a watchdog, and some that only seem to."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from observability.events import Notice
from observability.stall import watch as watch_module
from observability.stall.watch import StallWatch
from support.command import Cli, get
from support.log_lines import of, read_so_far
from support.processes import VICTIMS, victim
from support.waiting import eventually
from timers.server.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from timers.events import Event, WorkerInfo
    from timers.server.watchdog import RunningTimer

VICTIM = [sys.executable, str(VICTIMS / "explained.py")]
FREE = ("--http", "127.0.0.1:0")
SOON = ("--stall-after", "1")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def stalled(path: Path) -> dict[str, Any]:
    (event,) = eventually(lambda: of(path, "job stalled"), "the stall is reported", timeout=60)
    return event


@contextlib.contextmanager
def running(
    cli: Cli, events: Path, *what: str, options: tuple[str, ...] = SOON, **keywords: Any
) -> Iterator[subprocess.Popen[str]]:
    with cli.start(
        "run", *FREE, *options, "--events", events, "--", *VICTIM, *what, **keywords
    ) as process:
        yield process


@pytest.mark.parametrize(
    ("what", "function"),
    [
        (("request",), "get_page"),
        (("processes", "3", "1"), "read_shard"),
        (("pool", "stuck"), "get_stuck_once"),
    ],
    ids=("request", "processes", "pool"),
)
def test_a_job_that_stands_still_is_reported_with_who_and_where(
    cli: Cli, tmp_path: Path, what: tuple[str, ...], function: str
) -> None:
    events = tmp_path / "events.jsonl"
    with running(cli, events, *what) as process:
        event = stalled(events)
        assert event["stalled_seconds"] >= 1
        assert event["message"].startswith("Nothing has moved for ")
        assert function in event["sentence"]
        stacks = of(events, "stack dumped")
        assert any(function in json.dumps(stack) for stack in stacks)
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert len(of(events, "job stalled")) == 1
    assert function in cli.run("report", events).stdout
    cli.assert_nothing_left()


def test_that_a_job_moves_again_is_reported_and_both_are_counted(cli: Cli, tmp_path: Path) -> None:
    events, path = tmp_path / "events.jsonl", tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with running(cli, events, "told", env={"EXPLAINED_SOCKET": str(path)}) as process:
            connection, _ = server.accept()
            with connection:
                stalled(events)
                address = service(cli)
                assert "timers_job_stalled 1.0\n" in get(address, "/metrics")[1]

                def goes_on() -> bool:
                    connection.send(b"x")
                    return connection.recv(1) == b"x" and bool(of(events, "job moves again"))

                eventually(goes_on, "that it moves is seen", timeout=60)
                assert "timers_job_stalled 0.0\n" in get(address, "/metrics")[1]
                assert "timers_job_stalls_total 1.0\n" in get(address, "/metrics")[1]
            assert process.wait(60) == 0


def test_one_write_of_minutes_is_progress_as_long_as_somebody_takes_it(
    cli: Cli, tmp_path: Path
) -> None:
    events, path = tmp_path / "events.jsonl", tmp_path / "pipe"
    os.mkfifo(path)
    with (
        running(
            cli,
            events,
            "checkpoint",
            options=("--stall-after", "3"),
            env={"EXPLAINED_PIPE": str(path)},
        ) as process,
        path.open("rb", buffering=0) as reader,
    ):
        end = time.monotonic() + 9
        while time.monotonic() < end:
            assert len(reader.read(4096)) == 4096
            time.sleep(0.02)  # as quick as the disk is
        assert of(events, "job stalled") == []
        stalled(events)
        while reader.read(4096):
            time.sleep(0.001)
        eventually(lambda: of(events, "job moves again"), "that it moves is seen")
        assert process.wait(60) == 0
    assert len(of(events, "job stalled")) == 1


def service(cli: Cli) -> str:
    for pid in cli.processes():
        with open(f"/proc/{pid}/environ") as file:
            for entry in file.read().split("\0"):
                if entry.startswith("TIMERS_HTTP="):
                    return entry.partition("=")[2]
    raise AssertionError("no process of the command")


def test_the_suspect_is_ended_where_that_is_asked_for(cli: Cli, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    options = (*SOON, "--stall-action", "kill")
    with running(cli, events, "processes", "3", "1", options=options) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        pids = [int(word) for word in process.stdout.readline().split()]
        event = stalled(events)
        assert [each["pid"] for each in event["suspects"]] == [pids[1]]
        (killed,) = eventually(lambda: of(events, "kill worker process"), "it is ended")
        assert (killed["worker_pid"], killed["outcome"]) == (pids[1], "killed")
        assert all(os.path.exists(f"/proc/{pid}") for pid in (pids[0], pids[2]))
        process.terminate()
        process.wait(60)


def test_nobody_is_ended_without_a_suspect(cli: Cli, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    with running(cli, events, "request", options=(*SOON, "--stall-action", "kill")) as process:
        assert stalled(events)["suspects"] == []
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert of(events, "timer expired") == []


def test_a_job_that_computes_to_its_end_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    with running(cli, events, "finishing", options=("--stall-after", "0.2")) as process:
        assert process.wait(110) == 0
    assert [event["event"] for event in read_so_far(events) if event["level"] != "info"] == []


class NoTimers:
    """What the watch sees of a server that nobody has sent anything."""

    def __init__(self) -> None:
        self.statistics = Statistics()

    def running_timers(self, limit: int | None = None) -> list[RunningTimer]:
        del limit
        return []

    def known_workers(self) -> list[WorkerInfo]:
        return []


@pytest.mark.parametrize("what", [("pool", "idle"), ("notebook",), ("working",)], ids="-".join)
def test_what_is_idle_or_only_computes_is_examined_and_left_alone(
    what: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    with subprocess.Popen(
        [*VICTIM, *what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        watch = StallWatch(
            NoTimers(), events.append, after=0.3, run_id="run", host="here", own_children=True
        )
        # This process may have other children, which fixtures of other tests have started.
        monkeypatch.setattr(watch, "roots", lambda: [process.pid])
        watch.start()
        try:
            eventually(lambda: watch._watching._patience > 2, "it is examined", timeout=90)
        finally:
            watch.stop()
            process.kill()
    assert events == []


@pytest.mark.parametrize("ranks", [0, 2])
def test_what_is_watched_without_a_timer_is_said(
    ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "NOTICE_SECONDS", 0.0)
    events: list[Event] = []
    with contextlib.ExitStack() as stack:
        for rank in range(ranks or 1):
            env = {"RANK": str(rank)} if ranks else {}
            stack.enter_context(victim("explained", "rank", env=env))
        watch = StallWatch(
            NoTimers(), events.append, after=60, run_id="run", host="here", own_children=True
        )
        monkeypatch.setattr(watch_module, "period_of", lambda _: 0.01)
        watch.start()
        eventually(lambda: events, "it is said")
        watch.stop()
    (event,) = events
    assert isinstance(event, Notice)
    # Whatever else the tests have started is among the processes.
    what = "2 ranks" if ranks else r"\d+ process(es)?"
    said = f"nobody has set a timer yet; the stall watch looks at {what}"
    assert re.fullmatch(said, event.message)


def test_the_first_event_says_where_to_look(cli: Cli) -> None:
    ran = cli.run("run", *FREE, "--events", "-", "--", "true")
    started = json.loads(ran.stderr.splitlines()[0])
    assert started["event"] == "watchdog started"
    assert started["url"].startswith("http://127.0.0.1:")
    assert started["socket"].endswith("/timers.sock")
    assert started["url"] in started["message"]


def test_it_can_be_turned_off(cli: Cli) -> None:
    shown = cli.run("run", "--help").stdout
    assert "--stall-after SECONDS" in shown
    ran = cli.run("run", *FREE, "--stall-after", "0", "--", "true")
    assert ran.returncode == 0
    assert cli.run("run", *FREE, "--stall-after", "-1", "--", "true").returncode == 2
