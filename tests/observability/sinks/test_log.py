"""The log sink: one valid line for each event, bounded, whatever is in it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pty
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from observability.pipeline import Pipeline
from observability.sinks._dumps import DumpDirectory
from observability.sinks.bounded import MAX_LINE_BYTES, encode, fit
from observability.sinks.log import LogSink
from support.log_lines import parse, read
from support.samples import DUMP, TIMER, WORKER, all_events, expired, rejected, stack_dumped
from support.waiting import eventually
from timers.events import Event, RequestRejected, TimerAcquired, WorkerExited, WorkerInfo
from timers.stacks.take import Frame, StackDump, ThreadStack

if TYPE_CHECKING:
    from collections.abc import Iterator

ACQUIRED = TimerAcquired(timestamp=1.0, worker=WORKER, timer=TIMER)
NASTY = st.text(
    st.characters(exclude_categories=()) | st.sampled_from("\ud800\udc80\n\r\x00\u2028\x1b")
)


def deep(frames: int, threads: int = 1) -> StackDump:
    stack = tuple(Frame(f"recurse_{n}", "/home/user/train.py", n) for n in range(frames))
    return replace(
        DUMP,
        threads=tuple(ThreadStack(frames=stack, thread=4711 + n) for n in range(threads)),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_one_json_object_a_line_in_order(path: Path) -> None:
    sink = LogSink(path, level="debug", run_id="default", host="node-1")
    events = all_events()
    for event in events:
        sink(event)
    sink.close()
    lines = read(path)
    assert [line["event"] for line in lines] == [event.name for event in events]
    assert {line["host"] for line in lines} == {"node-1"}
    assert {line["run_id"] for line in lines} == {"default", "run-1"}
    for line in lines:
        assert list(line)[:5] == ["event", "level", "timestamp", "run_id", "host"]
    assert lines[4] == {
        "event": "timer expired",
        "level": "warning",
        "timestamp": "2023-11-14T22:14:20.750000Z",
        "run_id": "run-1",
        "host": "node-1",
        "worker_pid": 4711,
        "rank": 3,
        "local_rank": 1,
        "restart_count": 2,
        "scope_id": "all_reduce",
        "after_seconds": 60.0,
        "expiration_time": 1.0,
        "signal": 9,
        "elapsed_seconds": 60.25,
        "lateness_seconds": 0.25,
        "message": "Rank 3 (pid 4711 on node-1) is still in all_reduce after 60.2 s, past its"
        " deadline of 60 s.",
    }
    assert lines[5]["frame"] == "/home/user/train.py:42 load_batch"
    assert lines[5]["stack"][0]["frames"][1] == "/home/user/train.py:42 load_batch"


def test_levels_and_names_filter(path: Path) -> None:
    sink = LogSink(
        path, level="warning", include=["timer acquired"], exclude=["stack dumped", "reap failed"]
    )
    for event in all_events():
        sink(event)
    sink.close()
    assert [line["event"] for line in read(path)] == [
        "timer acquired",
        "timer expired",
        "kill worker process",
        "worker exited",
        "request rejected",
        "timer warning",
    ]


def test_requests_are_wanted_only_when_they_would_be_logged(path: Path) -> None:
    assert not LogSink(path).wants_requests
    assert LogSink(path, level="debug").wants_requests
    assert LogSink(path, include=["timer released"]).wants_requests
    names = ["timer acquired", "timer released"]
    assert not LogSink(path, level="debug", exclude=names).wants_requests


def test_an_unknown_level_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="unknown log level 'loud': use one of debug, info"):
        LogSink(path, level="loud")
    assert not path.exists()


def test_structlogs_own_configuration_is_neither_used_nor_changed(path: Path) -> None:
    def refuse(*_args: object) -> structlog.typing.EventDict:
        raise AssertionError

    before = structlog.get_config()
    structlog.configure(processors=[refuse], cache_logger_on_first_use=False)
    configured = structlog.get_config()
    try:
        sink = LogSink(path)
        sink(expired())
        assert structlog.get_config() == configured
    finally:
        structlog.configure(**before)
    sink.close()
    assert len(read(path)) == 1


def test_each_line_is_one_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = LogSink(path, level="debug")
    writes: list[bytes] = []
    write = os.write

    def recorded(descriptor: int, data: bytes) -> int:
        writes.append(bytes(data))
        return write(descriptor, data)

    monkeypatch.setattr("observability.sinks._line_file.os.write", recorded)
    for event in all_events():
        sink(event)
    assert len(writes) == len(all_events())
    assert all(data.endswith(b"\n") and data.count(b"\n") == 1 for data in writes)
    sink.close()


# -- what is in the strings ----------------------------------------------------------------------


@pytest.mark.parametrize("terminal", [False, True])
def test_surrogates_and_control_characters_break_no_line(path: Path, *, terminal: bool) -> None:
    nasty = 'a\nb\r\x00\x1b[2J\u2028\u0085\udc80\ud83d 漢 \U0001f600 " \\'
    sink = LogSink(path, run_id=nasty, terminal=terminal, verbose=True)
    sink(replace(expired(nasty), run_id=""))
    sink.close()
    data = path.read_bytes()
    assert data.count(b"\n") == 1
    assert not [byte for byte in data[:-1] if byte < 0x20 and not terminal]
    if not terminal:
        (line,) = parse(data)
        assert line["scope_id"] == nasty.replace("\udc80", "\\udc80").replace("\ud83d", "\\ud83d")
        assert line["scope_id"] == line["run_id"]
    else:
        assert b"\x1b[2J" not in data


@settings(deadline=None, max_examples=25)
@given(
    scope=NASTY,
    detail=NASTY,
    frames=st.lists(st.tuples(NASTY, NASTY), max_size=8),
    repeat=st.sampled_from([1, 40, 400]),
)
def test_any_event_is_one_valid_line_of_bounded_length(
    tmp_path_factory: pytest.TempPathFactory,
    scope: str,
    detail: str,
    frames: list[tuple[str, str]],
    repeat: int,
) -> None:
    path = tmp_path_factory.mktemp("any") / "log"
    stack = tuple(Frame(name * repeat, file * repeat, 1) for name, file in frames) * repeat
    stack = stack[:150]
    dump = replace(
        DUMP,
        error=detail * repeat,
        threads=(ThreadStack(frames=stack, name=detail * repeat), ThreadStack(frames=stack)),
    )
    timer = replace(TIMER, scope_id=scope * repeat)
    worker = replace(WORKER, pid=detail * repeat)
    events: list[Event] = [
        replace(stack_dumped(dump), timer=timer, worker=worker),
        WorkerExited(timestamp=1.0, worker=worker, timers=((timer, 1.0),) * repeat),
        replace(rejected(detail * repeat), worker_pid=scope * repeat, reason=scope * repeat),
    ]
    sink = LogSink(path, run_id=scope * repeat, host=detail * repeat)
    for event in events:
        sink(event)
    sink.close()
    lines = read(path)
    assert [line["event"] for line in lines] == [event.name for event in events]
    assert all(len(line) <= MAX_LINE_BYTES for line in path.read_bytes().splitlines(keepends=True))


def test_a_line_never_exceeds_its_bound_whatever_the_fields() -> None:
    fields = {"event": "x" * 50_000} | {f"field_{n}": "y" * 500 for n in range(200)}
    shorter = fit(fields)
    assert len(encode(shorter)) < MAX_LINE_BYTES
    assert shorter["event"].endswith("...")
    assert shorter["event_truncated"] is True
    assert fit(shorter) is shorter


# -- large stacks --------------------------------------------------------------------------------


def test_a_large_stack_is_cut_from_its_outer_end(path: Path) -> None:
    sink = LogSink(path)
    sink(stack_dumped(deep(5_000, threads=3)))
    sink.close()
    (line,) = read(path)
    assert MAX_LINE_BYTES - 200 < path.stat().st_size <= MAX_LINE_BYTES
    assert line["stack_truncated"] is True
    assert "stack_file" not in line
    (thread,) = line["stack"]
    assert thread["thread"] == 4712  # the one that acquired the timer
    assert thread["frames"][:2] == [
        "/home/user/train.py:0 recurse_0",
        "/home/user/train.py:1 recurse_1",
    ]
    assert len(thread["frames"]) > 100
    assert line["frame"] == "/home/user/train.py:0 recurse_0"
    assert line["process_state"] == "sleeping"


def test_a_large_stack_goes_whole_into_a_file_that_the_line_names(
    path: Path, tmp_path: Path
) -> None:
    sink = LogSink(path, dump_directory=tmp_path / "new" / "dumps")
    sink(stack_dumped())
    sink(stack_dumped(deep(5_000, threads=3)))
    sink(stack_dumped(deep(5_000, threads=3)))
    sink.close()
    small, *large = read(path)
    assert "stack_file" not in small
    assert "stack_truncated" not in small
    assert large[0]["stack_file"] != large[1]["stack_file"]
    for line in large:
        assert line["stack_truncated"] is True
        file = Path(line["stack_file"])
        assert file.parent == tmp_path / "new" / "dumps"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        whole = json.loads(file.read_text("ascii"))
        assert whole["run_id"] == "run-1"
        assert [len(thread["frames"]) for thread in whole["stack"]] == [5_000] * 3


def test_a_dump_that_cannot_be_written_costs_no_line(path: Path, tmp_path: Path) -> None:
    dumps = tmp_path / "dumps"
    sink = LogSink(path, dump_directory=dumps)
    dumps.rmdir()
    sink(stack_dumped(deep(5_000)))
    sink.close()
    (line,) = read(path)
    assert "No such file" in line["stack_file_error"]
    assert line["frame"] == "/home/user/train.py:0 recurse_0"
    assert line["stack_truncated"] is True


def test_a_dump_on_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, *_args: object, **_options: object) -> TextIO:
        os.close(descriptor)
        return open("/dev/full", "w")

    dumps = DumpDirectory(tmp_path)
    fields = {"timestamp": "2026-01-01T00:00:00Z", "stack": []}
    with monkeypatch.context() as context:
        context.setattr("observability.sinks._dumps.os.fdopen", full)
        with pytest.raises(OSError, match="No space left"):
            dumps.write(fields)
    assert list(tmp_path.iterdir()) == []
    assert [dumps.write(fields)] == list(tmp_path.iterdir())


def test_a_dump_directory_keeps_the_last_ones(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a dump")
    dumps = DumpDirectory(tmp_path, keep=3)
    fields = {"worker_pid": "../odd/", "stack": []}
    paths = [dumps.write({**fields, "timestamp": f"2026-01-0{n}T00:00:00Z"}) for n in range(1, 6)]
    assert sorted(tmp_path.glob("stack-*")) == paths[2:]
    assert all(path.parent == tmp_path for path in paths)
    assert (tmp_path / "notes.txt").exists()
    with pytest.raises(ValueError, match="cannot keep 0 files"):
        DumpDirectory(tmp_path, keep=0)


# -- where it goes -------------------------------------------------------------------------------


def test_a_file_is_appended_to_and_not_readable_by_everybody(path: Path) -> None:
    for _ in range(2):
        sink = LogSink(path)
        sink(expired())
        sink.close()
    assert len(read(path)) == 2
    assert stat.S_IMODE(path.stat().st_mode) & 0o027 == 0


def test_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    sink = LogSink(host="node-1")
    sink(expired())
    sink.reopen()
    sink.close()
    sink(expired())
    lines = parse(capfd.readouterr().err.encode())
    assert [line["event"] for line in lines] == ["timer expired"] * 2
    assert os.fstat(2)


def test_a_path_that_cannot_be_opened_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LogSink(tmp_path / "missing" / "log")
    with pytest.raises(IsADirectoryError):
        LogSink(tmp_path)


def test_a_rotated_file_is_left_on_request(path: Path) -> None:
    sink = LogSink(path)
    sink(expired("first"))
    old = path.rename(path.with_suffix(".1"))
    sink(expired("second"))
    assert [line["scope_id"] for line in read(old)] == ["first", "second"]
    assert not path.exists()
    sink.reopen()
    sink(expired("third"))
    sink(expired("fourth"))
    sink.close()
    assert [line["scope_id"] for line in read(old)] == ["first", "second"]
    assert [line["scope_id"] for line in read(path)] == ["third", "fourth"]


def test_a_rotation_that_fails_keeps_the_old_file_and_is_an_error(path: Path) -> None:
    sink = LogSink(path)
    old = path.rename(path.with_suffix(".1"))
    path.mkdir()
    sink.reopen()
    with pytest.raises(IsADirectoryError):
        sink(expired("first"))
    path.rmdir()
    sink(expired("second"))
    sink.close()
    assert [line["scope_id"] for line in read(old)] == ["first"]
    assert [line["scope_id"] for line in read(path)] == ["second"]


def test_a_full_disk_is_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = Pipeline(LogSink("/dev/full"))
    with caplog.at_level(logging.ERROR, "timers.server.observers.event_queue"):
        for _ in range(20):
            pipeline.emit(expired())
        assert pipeline.flush(30)
    assert pipeline.sink_counts == {"log": (0, 20)}
    assert caplog.text.count("'log' could not deliver an event") == 1
    assert "No space left on device: '/dev/full'" in caplog.text
    assert "Traceback" not in caplog.text
    assert pipeline.close(30)


def test_after_a_torn_line_the_next_one_is_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = LogSink(path)
    write = os.write

    def tearing(descriptor: int, data: memoryview) -> int:
        if len(data) > 10:
            return write(descriptor, data[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr("observability.sinks._line_file.os.write", tearing)
        with pytest.raises(OSError, match="No space left"):
            sink(expired("torn"))
    sink(expired("whole"))
    sink(expired("last"))
    sink.close()
    torn, *rest = path.read_bytes().splitlines(keepends=True)
    assert torn.startswith(b'{"event": ')
    assert [line["scope_id"] for line in parse(b"".join(rest))] == ["whole", "last"]


def test_partial_writes_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = LogSink(path)
    write = os.write
    monkeypatch.setattr(
        "observability.sinks._line_file.os.write", lambda fd, data: write(fd, bytes(data[:7]))
    )
    sink(expired("in pieces"))
    sink.close()
    assert [line["scope_id"] for line in read(path)] == ["in pieces"]


# -- pipes ---------------------------------------------------------------------------------------


def test_a_fifo_gets_lines_once_it_has_a_reader_and_again_with_the_next(fifo: Path) -> None:
    sink = LogSink(fifo)
    with pytest.raises(OSError, match="No such device or address"):
        sink(expired("nobody"))
    for scope in ("first", "second"):
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        sink(expired(scope))
        assert [line["scope_id"] for line in parse(os.read(reader, 65536))] == [scope]
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            sink(expired("gone"))
    sink.close()


def test_a_pipe_whose_reader_is_gone_is_counted(fifo: Path) -> None:
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    pipeline = Pipeline(LogSink(fifo))
    pipeline.emit(expired())
    assert pipeline.flush(30)
    assert len(parse(os.read(reader, 65536))) == 1
    os.close(reader)
    for _ in range(3):
        pipeline.emit(expired())
    assert pipeline.flush(30)
    assert pipeline.sink_counts == {"log": (0, 3)}
    assert pipeline.close(30)


@pytest.fixture
def stopped_reader(fifo: Path) -> Iterator[int]:
    """A reader that keeps the FIFO open and does not read."""
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    yield reader
    os.close(reader)


def test_a_reader_that_stopped_reading_delays_nobody_and_losses_are_counted(
    fifo: Path, stopped_reader: int
) -> None:
    pipeline = Pipeline(LogSink(fifo), capacity=10)
    sent = 0
    while pipeline.sink_counts["log"].dropped == 0 or pipeline.flush(0.05):
        pipeline.emit(expired())
        sent += 1
    lines = b""

    def reads_on() -> bool:
        nonlocal lines
        with contextlib.suppress(BlockingIOError):
            lines += os.read(stopped_reader, 1 << 20)
        return pipeline.flush(0)

    eventually(reads_on)
    lines += os.read(stopped_reader, 1 << 20) if not lines.endswith(b"\n") else b""
    assert pipeline.close(30)
    os.set_blocking(stopped_reader, True)
    while data := os.read(stopped_reader, 1 << 20):
        lines += data
    (lost, errors) = pipeline.sink_counts["log"]
    assert errors == 0
    assert len(parse(lines)) + lost == sent
    assert lost >= 1


def test_a_pipe_made_non_blocking_by_somebody_else_is_waited_for(
    fifo: Path, stopped_reader: int
) -> None:
    sink = LogSink(fifo)
    sink(expired())
    descriptor = sink._file._descriptor
    assert descriptor is not None
    os.set_blocking(descriptor, False)
    pipeline = Pipeline(sink)
    for _ in range(400):  # more than the 64 KiB that a pipe holds
        pipeline.emit(expired())
    assert not pipeline.flush(0.05)
    lines = b""

    def reads_on() -> bool:
        nonlocal lines
        with contextlib.suppress(BlockingIOError):
            lines += os.read(stopped_reader, 1 << 20)
        return lines.count(b"\n") == 401

    eventually(reads_on)
    assert len(parse(lines)) == 401
    assert pipeline.close(30)
    assert pipeline.sink_counts == {"log": (0, 0)}


# -- terminals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("colors", [True, False])
def test_a_terminal_is_shown_everything_on_request(
    monkeypatch: pytest.MonkeyPatch, *, colors: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colors:
        monkeypatch.setenv("NO_COLOR", "1")
    leader, follower = pty.openpty()
    try:
        sink = LogSink(os.ttyname(follower), host="node-1", verbose=True)
        sink(expired("step\x1b]0;title\x07"))
        sink(stack_dumped())
        sink(WorkerExited(timestamp=1.0, worker=WORKER, timers=((TIMER, 1.0), (TIMER, 2.0))))
        data = b""
        while b"timers_open" not in data or not data.endswith(b"\n"):
            data += os.read(leader, 65536)
        sink.close()
    finally:
        os.close(leader)
        os.close(follower)
    text = data.decode()
    assert ("\x1b[" in text) is colors
    assert "node-1" not in text
    assert "\x1b]0" not in text
    assert "\\x1b]0;title\\x07" in text
    assert "timer expired" in text
    assert "{" not in text.split("worker exited")[0]
    lines = text.splitlines()
    assert "  thread 4712 loader (holds the GIL)" in lines
    assert "    /home/user/train.py:42 load_batch" in lines


def test_a_file_is_json_and_a_worker_may_have_any_name(path: Path) -> None:
    sink = LogSink(path)
    sink(RequestRejected(timestamp=1.0, reason="not_json", worker_pid="node:7", suppressed=3))
    sink(WorkerExited(timestamp=1.0, worker=WorkerInfo(pid="actor-1")))
    sink.close()
    first, second = read(path)
    assert (first["worker_pid"], first["suppressed"]) == ("node:7", 3)
    assert second["worker_pid"] == "actor-1"


def test_a_pipeline_with_a_log_delivers_before_a_flush_returns(path: Path) -> None:
    pipeline = Pipeline(LogSink(path))
    pipeline.emit(stack_dumped())
    assert pipeline.flush(30)
    assert [line["event"] for line in read(path)] == ["stack dumped"]
    assert pipeline.close(30)
    eventually(lambda: pipeline.sink_counts["log"].dropped == 0)
