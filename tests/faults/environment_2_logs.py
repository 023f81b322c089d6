"""Where the events go: full, read-only, without a reader."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import threading
from typing import TYPE_CHECKING, BinaryIO

from support.processes import VICTIMS

from .fault import Fault, Weaker
from .machine import mount_reason, mounted, unmount
from .promises import EXPLAINED, STORY, TOLD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .observation import Observation
    from .stage import Stage

__all__ = ["FAULTS"]

TOLD_OF_TWO_REAPS = 2 * len(STORY) + 1
"""Without the hang report; the last is the bystander's exit."""


def fill(path: Path) -> None:
    """Write there until the disk is full."""
    with open(path, "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(b"x" * 4096)


def assert_shown(seen: Observation) -> None:
    """/timers told of both reaps, and where the workers were stuck."""
    shown = {reap["worker_pid"]: (reap["outcome"], reap["frame"]) for reap in seen.reaps}
    assert shown == {worker.pid: ("killed", worker.frame) for worker in (seen.first, seen.second)}


AT_TIMERS = Weaker("yes, at /timers", assert_shown)
COUNTED_LINES = "at /timers; lost lines are counted"


def lost(seen: Observation) -> float:
    """How many events the log could not write."""
    assert seen.count("timers_events_dropped_total") == 0
    errors = seen.count("timers_sink_errors_total")
    assert errors == seen.count("timers_sink_errors_total", sink="log")
    return errors


class FullDisk(Fault):
    name = "the log's disk is full"

    def __init__(self) -> None:
        self.weaker = {EXPLAINED: AT_TIMERS, TOLD: Weaker(COUNTED_LINES, self._told)}

    def unavailable(self) -> str | None:
        return mount_reason()

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        stage.arguments += ["--no-hang-report"]
        with mounted(stage.directory / "log", "-t", "tmpfs", "-o", "size=64k", "tmpfs") as disk:
            stage.events = disk / "events.jsonl"
            yield

    def strike(self, stage: Stage) -> None:
        stage.seen.notes["before"] = len(stage.event_lines()[0])
        fill(stage.directory / "log" / "filler")

    def finish(self, stage: Stage) -> None:
        stage.seen.notes["written"] = len(stage.event_lines()[0]) - stage.seen.notes["before"]
        os.unlink(stage.directory / "log" / "filler")

    def _told(self, seen: Observation) -> None:
        assert_shown(seen)
        # What fitted into the last page was still written.
        assert lost(seen) == TOLD_OF_TWO_REAPS - seen.notes["written"] > 0
        assert len(seen.torn) <= 1
        assert seen.named("watchdog stopped")  # there is room again


class FullDumpDirectory(Fault):
    name = "the dump directory's disk is full"

    def __init__(self) -> None:
        self.weaker = {EXPLAINED: Weaker("shortened to a line, with the reason", self._explained)}

    def unavailable(self) -> str | None:
        return mount_reason()

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        stage.worker_script = str(VICTIMS / "deep_worker.py")
        with mounted(stage.directory / "dumps", "-t", "tmpfs", "-o", "size=64k", "tmpfs") as disk:
            stage.arguments += ["--dump-dir", str(disk)]
            yield

    def strike(self, stage: Stage) -> None:
        fill(stage.directory / "dumps" / "filler")

    def ended(self, stage: Stage) -> None:
        stage.seen.notes["dumps"] = os.listdir(stage.directory / "dumps")

    def _explained(self, seen: Observation) -> None:
        for worker in (seen.first, seen.second):
            [dump] = seen.named("stack dumped", worker.pid)
            assert dump["frame"] == worker.frame
            assert worker.frame in dump["stack"][0]["frames"]
            assert dump["stack_truncated"]
            assert os.strerror(errno.ENOSPC) in dump["stack_file_error"]
        assert seen.notes["dumps"] == ["filler"]  # nothing half-written


class ReadOnlyDirectory(Fault):
    name = "the log's directory becomes read-only"

    def __init__(self) -> None:
        self.weaker = {TOLD: Weaker("in the file that was rotated away; counted", self._told)}

    def unavailable(self) -> str | None:
        return mount_reason() if os.geteuid() == 0 else None

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        stage.arguments += ["--no-hang-report"]
        stage.wrapper = ["env", "--default-signal=HUP"]  # under nohup(1) it would be ignored
        folder = stage.directory / "log"
        folder.mkdir()
        stage.events = folder / "events.jsonl"
        with contextlib.ExitStack() as ends:
            self._ends = ends
            yield

    def strike(self, stage: Stage) -> None:
        folder = stage.directory / "log"
        stage.events.rename(folder / "events.jsonl.1")
        if os.geteuid() == 0:  # to whom the modes of a directory say nothing
            subprocess.run(["mount", "--bind", "-o", "ro", folder, folder], check=True)
            self._ends.callback(unmount, folder)
        else:
            folder.chmod(0o555)
            self._ends.callback(folder.chmod, 0o755)
        stage.service.send_signal(1)  # SIGHUP, as logrotate sends it
        stage.events = folder / "events.jsonl.1"

    def _told(self, seen: Observation) -> None:
        written = [line["event"] for line in seen.events if line["event"] in STORY]
        assert written == STORY * 2
        assert lost(seen) == TOLD_OF_TWO_REAPS
        assert_shown(seen)
        assert seen.torn == []


class ReaderGone(Fault):
    name = "the log's reader is gone (EPIPE)"

    def __init__(self) -> None:
        self.weaker = {EXPLAINED: AT_TIMERS, TOLD: Weaker(COUNTED_LINES, self._told)}

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        stage.arguments += ["--no-hang-report"]
        with _log_into_pipe(stage) as self._reader:
            yield

    def strike(self, stage: Stage) -> None:
        del stage
        self._reader.close()

    def _told(self, seen: Observation) -> None:
        assert_shown(seen)
        assert lost(seen) == TOLD_OF_TWO_REAPS


class ReaderStuck(Fault):
    name = "the log's reader does not read"

    def __init__(self) -> None:
        self.weaker = {TOLD: Weaker("yes, as soon as it reads again", TOLD.check)}

    @contextlib.contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        with _log_into_pipe(stage) as self._reader:
            yield

    def relieve(self, stage: Stage) -> None:
        self._drain = threading.Thread(
            target=lambda: stage.events.write_bytes(self._reader.read()), daemon=True
        )
        self._drain.start()

    def ended(self, stage: Stage) -> None:
        del stage
        self._drain.join()


@contextlib.contextmanager
def _log_into_pipe(stage: Stage) -> Iterator[BinaryIO]:
    """Have the service log to stderr, a pipe that holds one page, which nobody reads yet."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    stage.events_to = "-"
    stage.stderr = writer
    with open(reader, "rb") as file:
        yield file


FAULTS: list[Fault] = [
    FullDisk(),
    FullDumpDirectory(),
    ReadOnlyDirectory(),
    ReaderGone(),
    ReaderStuck(),
]
