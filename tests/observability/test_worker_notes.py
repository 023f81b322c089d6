"""What is written for a worker's launcher and user: where it may be, never waiting."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from observability.story import Stories
from observability.worker_notes import (
    ERROR_FILE_VARIABLE,
    WorkerNotes,
    write_error_file,
    write_to_stderr,
)
from support.samples import expired
from support.waiting import eventually
from timers.events import WorkerInfo
from timers.linux import procfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NO_DIRECTORY = "Not a directory"
TEXT = "reaped by timers: stuck at data.py:22 fetch_shard"
SLEEPING = [sys.executable, "-c", "import sys; sys.stdout.write('x'); sys.stdout.flush(); input()"]


@contextlib.contextmanager
def worker(error_file: str | None = None, stderr: Any = subprocess.DEVNULL) -> Iterator[int]:
    environment = {**os.environ} | ({} if error_file is None else {ERROR_FILE_VARIABLE: error_file})
    with subprocess.Popen(
        SLEEPING, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
    ) as process:
        assert process.stdout
        assert process.stdout.read(1) == b"x"
        yield process.pid
        process.kill()


def test_the_note_is_in_the_form_that_torchrun_reads(tmp_path: Path) -> None:
    path = tmp_path / "error.json"
    with worker(str(path)) as pid:
        assert write_error_file(pid, TEXT, moment=1_700_000_000.5)
    assert json.loads(path.read_text()) == {
        "message": {
            "message": TEXT,
            "extraInfo": {"timestamp": "1700000000", "py_callstack": TEXT},
        }
    }


def test_what_the_worker_itself_wrote_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "error.json"
    path.write_text("its own")
    with worker(str(path)) as pid:
        assert not write_error_file(pid, TEXT, moment=1.0)
    assert path.read_text() == "its own"


def test_without_a_launcher_that_asks_nothing_is_written(tmp_path: Path) -> None:
    for where in (None, "", "relative.json", "/" + "x" * 5000):
        with worker(where) as pid:
            assert not write_error_file(pid, TEXT, moment=1.0)
    assert list(tmp_path.iterdir()) == []


def test_no_link_is_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "directory").symlink_to(elsewhere)
    (tmp_path / "file").symlink_to(elsewhere / "made")
    linked = str(tmp_path / "directory" / "error.json")
    with worker(linked) as pid, pytest.raises(OSError, match=NO_DIRECTORY):
        write_error_file(pid, TEXT, moment=1.0)
    with worker(str(tmp_path / "file")) as pid:
        assert not write_error_file(pid, TEXT, moment=1.0)
    around = f"{tmp_path}/directory/../error.json"
    with worker(around) as pid, pytest.raises(OSError, match=NO_DIRECTORY):
        write_error_file(pid, TEXT, moment=1.0)
    assert list(elsewhere.iterdir()) == []


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with worker(str(tmp_path / "pipe")) as pid:
        assert not write_error_file(pid, TEXT, moment=1.0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_a_directory_of_another_user_is_not_written_to(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with worker(str(tmp_path / "error.json")) as pid:
        assert not write_error_file(pid, TEXT, moment=1.0)
    assert list(tmp_path.iterdir()) == []


# -- its standard error --------------------------------------------------------------------------


def test_a_line_is_written_to_a_pipe() -> None:
    reading, writing = os.pipe()
    with worker(stderr=writing) as pid:
        os.close(writing)
        assert write_to_stderr(pid, "timers: one\x1b[2J line")
        assert os.read(reading, 1000) == b"timers: one\\x1b[2J line\n"
    os.close(reading)


def test_a_pipe_that_nobody_reads_is_not_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 65536)
    os.set_blocking(writing, True)
    with worker(stderr=writing) as pid:
        assert not write_to_stderr(pid, "a line")
        assert os.get_blocking(writing)  # the worker's own end is as it was
        os.close(reading)
        with pytest.raises(OSError, match=r"Broken pipe|No such device"):
            write_to_stderr(pid, "a line")
    os.close(writing)


def test_a_line_is_added_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "stderr"
    with path.open("w") as file:
        file.write("before\n")
        file.flush()
        with worker(stderr=file) as pid:
            assert write_to_stderr(pid, "after")
    assert path.read_text() == "before\nafter\n"


def test_a_line_is_written_to_a_terminal() -> None:
    leader, follower = pty.openpty()
    with worker(stderr=follower) as pid:
        assert write_to_stderr(pid, "a line")
        assert os.read(leader, 100) == b"a line\r\n"
    os.close(leader)
    os.close(follower)


def test_nothing_is_written_to_anything_else() -> None:
    with worker() as pid:  # /dev/null is a device, and no terminal
        assert not write_to_stderr(pid, "a line")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_of_another_users_worker_only_that_users_file_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "stderr"
    path.write_text("root's\n")
    with path.open() as file:
        process = subprocess.Popen(
            ["sh", "-c", "printf x; read line"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file,
            user=12345, group=12345, extra_groups=[],
        )  # fmt: skip
        assert process.stdout
        with process:
            assert process.stdout.read(1) == b"x"
            assert not write_to_stderr(process.pid, "a line")
            os.chown(path, 12345, -1)
            assert write_to_stderr(process.pid, "a line")
            process.kill()
    assert path.read_text() == "root's\na line\n"


# -- as a step before a kill ---------------------------------------------------------------------


def request(pid: int, signal: int = 9) -> str:
    fields = {"pid": pid, "scope_id": "step", "expiration_time": 1_700_000_000.0, "signal": signal}
    return json.dumps(fields)


def notes(pid: int) -> WorkerNotes:
    stories = Stories()
    worker = WorkerInfo(pid=pid, start_time=procfs.start_time(pid))
    stories.completed(replace(expired(), worker=worker))
    return WorkerNotes(lambda *_, **__: {}, stories, own_is_enough=False)


def test_a_worker_that_is_only_observed_gets_no_note(tmp_path: Path) -> None:
    path = tmp_path / "error.json"
    with worker(str(path)) as pid:
        step = notes(pid)
        until = time.monotonic() + 30
        assert step.before_kill("run-1", {pid: [request(pid, signal=0)]}, until=until) == {}
        assert not path.exists()
        step.before_kill("run-1", {pid: [request(pid)]}, until=until)
    said = json.loads(path.read_text())["message"]["message"]
    assert said == "reaped by timers: it overran step."


def test_a_note_that_cannot_be_written_prevents_nothing() -> None:
    with worker("/proc/version/x") as pid:
        step = notes(pid)
        assert step.before_kill("run-1", {pid: ["no JSON"]}, until=0.0) == {}
        assert step.before_kill("run-1", {pid: [request(pid)]}, until=0.0) == {}


def test_a_write_that_never_returns_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, end = threading.Event(), threading.Event()

    def stuck(*_: object, **__: object) -> bool:
        entered.set()
        return end.wait()

    monkeypatch.setattr("observability.worker_notes.write_to_stderr", stuck)
    with worker() as pid:
        assert notes(pid).before_kill("run-1", {pid: [request(pid)]}, until=0.0) == {}
    assert entered.is_set()
    end.set()
    name = f"timers-note-{pid}"
    eventually(lambda: name not in [each.name for each in threading.enumerate()], "its thread")
