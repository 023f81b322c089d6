"""The user's own command gets each report whole, within a bound, and its failures count."""

from __future__ import annotations

import json
import shlex
import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest

from observability.events import HangReported
from observability.hang.types import Confidence, HangReport, Suspect, Verdict
from observability.pipeline import Pipeline
from observability.sinks.hook import HangHook
from support.samples import all_events
from support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

SUSPECTS = tuple(Suspect(pid=pid, frame="x" * 2000) for pid in range(100))


def reported() -> HangReported:
    report = HangReport(
        verdict=Verdict.ONE_SUSPECT, confidence=Confidence.HIGH, reason="", sentence="It hangs.",
        suspects=SUSPECTS,
    )  # fmt: skip
    return HangReported(timestamp=1.0, run_id="run-1", report=report)


def test_the_command_gets_the_whole_report(tmp_path: Path) -> None:
    path = tmp_path / "it's here"
    HangHook(f"cat > {shlex.quote(str(path))}", where=lambda: "http://127.0.0.1/")(reported())
    given = json.loads(path.read_text())
    assert given["event"] == "hang report"
    assert given["message"] == given["sentence"] == "It hangs."
    assert given["report"] == "http://127.0.0.1/"
    assert given["run_id"] == "run-1"
    assert len(given["suspects"]) == 100  # more than a pipe holds


def test_one_that_does_not_read_is_no_failure() -> None:
    HangHook("true")(reported())


def test_other_events_run_nothing(tmp_path: Path) -> None:
    hook = HangHook(f"touch {tmp_path}/ran")
    for event in all_events():
        hook(event)
    assert list(tmp_path.iterdir()) == []
    hook(reported())
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("exit 3", "it exited with 3"),
        ("kill -SEGV $$", f"signal {int(signal.SIGSEGV)} ended it"),
        ("/no/such/command 2>&-", "it exited with 127"),
    ],
)
def test_a_failure_is_said_and_counted(command: str, said: str) -> None:
    with pytest.raises(OSError, match=said):
        HangHook(command)(reported())
    pipeline = Pipeline(HangHook(command))
    pipeline.emit(reported())
    assert pipeline.close(30)
    assert pipeline.sink_counts["on_hang"] == (0, 1)


@pytest.mark.slow
def test_one_that_does_not_end_is_killed_with_what_it_started(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    hook = HangHook(f"sleep 1000 & echo $! $$ > {path}; wait", seconds=1.0)
    with pytest.raises(TimeoutError, match="did not end within 1 s"):
        hook(reported())
    for pid in map(int, path.read_text().split()):
        eventually(partial(_is_gone, pid), f"the end of {pid}")


def test_it_can_be_ended_although_this_process_holds_signals_back(tmp_path: Path) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        HangHook(f"grep SigBlk /proc/self/status > {tmp_path}/mask")(reported())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert (tmp_path / "mask").read_text().split() == ["SigBlk:", "0" * 16]


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _is_gone(pid: int) -> bool:
    return not _lives(pid)
