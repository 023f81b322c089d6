"""Text that somebody hostile chose, where people and machines read it."""

from __future__ import annotations

import dataclasses
import http.server
import json
import logging
import re
import threading
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from observability import open_pipeline
from observability.sinks.log import LogSink
from observability.sinks.metrics import Metrics
from observability.untrusted import printable
from support.command import Cli
from support.samples import all_events
from support.waiting import eventually
from timers.events import TimerInfo, WorkerInfo
from timers.server.observers.logging_observer import log_events
from timers.server.statistics import Statistics
from timers.stacks.take import StackDump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from timers.events import Event

HOSTILE = (
    "x\x1b]0;title\x07\x1b[2J\x1b[31m\x9b31m\r\n"
    '{"event": "kill worker process"}\n\u2028\x00\x08\x7f<script>alert(1)</script>'
    '"} 1\ntimers_reaps_total{scope="forged"} 99\n\\'
)
MARKS = "\u202e\u2066\u2069\u200f\u061c"
"""Direction marks: what follows them is shown in another order."""
MOVING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
"""Whatever a terminal obeys, but for the ends of lines."""


def poisoned(value: Any, text: str = HOSTILE) -> Any:
    """The same with ``text`` appended to each string in it."""
    if isinstance(value, str):
        return value + text
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(poisoned(item, text) for item in value)
    if isinstance(value, WorkerInfo | TimerInfo | StackDump) or _is_plain(value):
        changed = {
            field.name: poisoned(getattr(value, field.name), text)
            for field in dataclasses.fields(value)
            if field.name not in ("name", "method", "traceparent", "span_id")
        }
        return dataclasses.replace(value, **changed)
    return value


def _is_plain(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and type(value).__module__.startswith("timers.")


def hostile_events(text: str = HOSTILE) -> list[Event]:
    return [
        dataclasses.replace(
            event,
            **{
                field.name: poisoned(getattr(event, field.name), text)
                for field in dataclasses.fields(event)
                if field.name != "severity"
            },
        )
        for event in all_events()
    ]


# -- logs -----------------------------------------------------------------------------------


def test_each_event_is_one_json_line_whatever_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "events"
    sink = LogSink(path, level="debug", terminal=False)
    events = hostile_events()
    for event in events:
        sink(event)
    sink.close()
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line)["event"] for line in lines] == [event.name for event in events]
    assert not re.search(rb"[^\x20-\x7e]", b"".join(lines))
    assert b"forged" in b"".join(lines)


@pytest.mark.parametrize("text", [HOSTILE, MARKS], ids=["control", "direction"])
def test_a_log_for_people_drives_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    path = tmp_path / "events"
    sink = LogSink(path, level="debug", terminal=True)
    for event in hostile_events(text):
        sink(event)
    sink.close()
    written = path.read_text()
    assert "all_reduce" in written
    assert not MOVING.search(written)
    assert not set(MARKS) & set(written)
    assert '\n{"event"' not in written


def test_the_programs_own_log_gets_one_line_for_each_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="timers.events")
    observer = log_events()
    for event in hostile_events():
        observer.emit(event)
    assert observer.flush(30)
    observer.close(30)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) > 5
    assert [message for message in messages if "\n" in message or MOVING.search(message)] == []


def test_marks_of_direction_are_shown_and_not_obeyed() -> None:
    shown = printable(f"a{MARKS}b")
    assert shown.startswith("a\\u202e")
    assert shown.endswith("b")
    assert shown.isascii()


# -- metrics --------------------------------------------------------------------------------


def test_a_scope_is_one_label_of_its_own_series() -> None:
    pipeline = open_pipeline(events=None, spans=False)
    statistics = Statistics()
    statistics.scope(HOSTILE).acquires = 7
    pipeline.watch(statistics)
    text = Metrics(pipeline).exposition("text/plain")[0].decode()
    pipeline.close()
    scopes = {
        sample.labels["scope"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "timers_acquires_total"
    }
    assert scopes == {printable(HOSTILE[:120]): 7.0}
    assert '\ntimers_reaps_total{scope="forged"' not in text


# -- timers top -----------------------------------------------------------------------------

ANSWER = {
    "run_id": "run",
    "host": "host",
    "workers": 1,
    "active": 1,
    "totals": {"acquires": 1, "releases": 0, "expirations": 1, "reaps": 1, "rejected": 0},
    "timers": [
        {
            "worker_pid": 4711,
            "rank": 3,
            "scope_id": "scope",
            "age_seconds": 1.0,
            "after_seconds": 2.0,
            "remaining_seconds": 1.0,
        }
    ],
    "reaps": [
        {
            "timestamp": "2026-01-31T03:12:07.004211Z",
            "worker_pid": 4711,
            "rank": 3,
            "scope_id": "scope",
            "outcome": "killed",
            "frame": "train.py:1 f",
        }
    ],
}


class Fake:
    """A service that answers what a test wants; it keeps the headers of each request."""

    def __init__(self) -> None:
        fake = self
        self.status: tuple[int, str] = (200, "OK")
        self.body = b""
        self.location: str | None = None
        self.asked: list[dict[str, str]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # http.server's name
                fake.asked.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(*fake.status)
                if fake.location is not None:
                    self.send_header("Location", fake.location)
                self.end_headers()
                self.wfile.write(fake.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def make_fake() -> Iterator[Callable[[], Fake]]:
    fakes: list[Fake] = []

    def make() -> Fake:
        fakes.append(Fake())
        return fakes[-1]

    yield make
    for fake in fakes:
        fake.close()


def top(fake: Fake, directory: Path, *more: object) -> tuple[int, str]:
    ran = Cli(directory / "cli").run("top", "--once", *more, fake.address)
    return ran.returncode, ran.stdout + ran.stderr


def _poisoned_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _poisoned_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_poisoned_json(item) for item in value]
    return value + HOSTILE if isinstance(value, str) else value


def _strings_for_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _strings_for_numbers(item) if not name.endswith("_seconds") else item
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_strings_for_numbers(item) for item in value]
    return f"{value}{HOSTILE}{MARKS}" if isinstance(value, int | str) else value


@pytest.mark.parametrize("poison", [_poisoned_json, _strings_for_numbers])
def test_a_hostile_service_cannot_drive_the_terminal_of_top(
    make_fake: Callable[[], Fake], tmp_path: Path, poison: Callable[[Any], Any]
) -> None:
    fake = make_fake()
    fake.body = json.dumps(ANSWER).encode()
    code, shown = top(fake, tmp_path / "good")
    assert code == 0
    assert "train.py:1 f" in shown
    fake.body = json.dumps(poison(ANSWER)).encode()
    _, shown = top(fake, tmp_path)
    assert shown
    assert not MOVING.search(shown)
    assert not set(MARKS) & set(shown)
    assert "Traceback" not in shown


def test_a_hostile_error_page_cannot_drive_the_terminal_of_top(
    make_fake: Callable[[], Fake], tmp_path: Path
) -> None:
    fake = make_fake()
    fake.status = (500, "Odd\x1b[31m\x9b")
    fake.body = HOSTILE.encode()
    code, shown = top(fake, tmp_path)
    assert code == 1
    assert "500" in shown
    assert not MOVING.search(shown)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"timers": 3}',
        b'{"timers": []}',
        json.dumps({**ANSWER, "timers": [{}]}).encode(),
        json.dumps({**ANSWER, "totals": []}).encode(),
        json.dumps({**ANSWER, "reaps": {"a": 1}}).encode(),
        b"[" * 100_000,
        b"1" * 100_000,
    ],
    ids=range(10),
)
def test_top_says_of_nonsense_that_it_is_no_answer(
    make_fake: Callable[[], Fake], tmp_path: Path, body: bytes
) -> None:
    fake = make_fake()
    fake.body = body
    code, shown = top(fake, tmp_path)
    assert code == 1
    assert shown.startswith("Error: ")
    assert shown.count("\n") == 1


def test_a_redirect_does_not_take_the_token_along(
    make_fake: Callable[[], Fake], tmp_path: Path
) -> None:
    asked, elsewhere = make_fake(), make_fake()
    asked.status = (302, "Found")
    asked.location = f"http://{elsewhere.address}/timers"
    elsewhere.body = json.dumps(ANSWER).encode()
    token = tmp_path / "token"
    token.write_text("5up3rs3cret")
    top(asked, tmp_path, "--http-token-file", token)
    assert asked.asked[0]["authorization"] == "Bearer 5up3rs3cret"
    assert not [headers for headers in elsewhere.asked if "authorization" in headers]


# -- timers report --------------------------------------------------------------------------


def _event_file(path: Path, text: str) -> Path:
    common = {"timestamp": f"no time{text}", "run_id": f"run{text}"}
    stack = [
        {
            "thread": 4711,
            "name": f"MainThread{text}",
            "frames": [f"/job/x{text}.py:1 f{text}", f"/job/train.py:120 main{text}"],
        }
    ]
    dumped = {
        **common,
        "event": "stack dumped",
        "worker_pid": 4711,
        "rank": 1,
        "host": f"host{text}",
        "expired": True,
        "scope_id": f"scope{text}",
        "stack_method": f"py-spy{text}",
        "stack_error": f"error{text}",
        "process_state": f"state{text}",
        "process_wait_channel": f"channel{text}",
        "process_connections": [f"connection{text}"],
        "process_open_paths": [f"path{text}"],
        "stack": stack,
    }
    events: list[dict[str, Any]] = [
        {**common, "event": "timer expired", "worker_pid": 4711,
         "rank": 1, "scope_id": f"scope{text}", "host": f"host{text}"},
        {**dumped},
        {**dumped, "worker_pid": f"4712{text}", "rank": 2, "expired": False},
        {**common, "event": "worker exited", "worker_pid": f"9{text}", "rank": 3,
         "timers_open": 1, "scope_id": f"scope{text}", "host": f"host{text}"},
        {**common, "event": "timer released", "scope_id": f"scope{text}", "elapsed_seconds": 1.0,
         "after_seconds": 5.0},
    ]  # fmt: skip
    lines = [json.dumps(event).encode() for event in events]
    path.write_bytes(b"\n".join([*lines, b"no event" + HOSTILE.encode()]) + b"\n")
    return path


@pytest.mark.parametrize(
    "options",
    [("--all",), ("--deadlines",), ("--json", "--all"), ("--run-id", "another"), ()],
    ids="-".join,
)
def test_a_report_drives_no_terminal(tmp_path: Path, options: tuple[str, ...]) -> None:
    file = _event_file(tmp_path / "events", HOSTILE + MARKS)
    ran = Cli(tmp_path / "cli").run("report", *options, file)
    shown = ran.stdout + ran.stderr
    assert "run" in shown or "scope" in shown
    assert "Traceback" not in shown
    assert not MOVING.search(shown)
    assert not set(MARKS) & set(shown)


def test_the_html_report_has_no_markup_of_a_worker(tmp_path: Path) -> None:
    file = _event_file(tmp_path / "events", "<script>alert(1)</script>'\"><img src=x onerror=y>&")
    page = tmp_path / "page.html"
    Cli(tmp_path / "cli").run("report", "--all", "--html", page, file)
    text = eventually(page.read_text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script" not in text
    assert "<img" not in text
    assert not re.search(r"<[^>]*onerror", text)
