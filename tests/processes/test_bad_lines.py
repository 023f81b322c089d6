"""One bad line costs that line, through the real pipe and in any company."""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from support.waiting import eventually
from timers.events import RequestRejected, TimerExpired, WorkerKilled

if TYPE_CHECKING:
    from support.recording import Recorder
    from support.servers import FilePair

VALID = 10_000
BAD = 1_000
SCOPES = 50


def bad_lines(pid: int) -> list[tuple[str, bytes]]:
    """One of each kind, with the reason it is to be refused for."""
    good: dict[str, Any] = {
        "version": 1,
        "pid": pid,
        "scope_id": "bad",
        "expiration_time": time.time() + 3600,
        "signal": 9,
    }

    def but(**changes: Any) -> bytes:
        return json.dumps({**good, **changes}).encode()

    def without(key: str) -> bytes:
        return json.dumps({k: v for k, v in good.items() if k != key}).encode()

    whole = but()
    return [
        ("not_json", b"GET / HTTP/1.1"),
        ("not_json", b"[" * 3000),
        ("not_json", whole + b" and more"),
        ("not_json", whole[:40]),
        ("not_json", but(expiration_time=float("nan"))),
        ("not_json", but(expiration_time=float("inf"))),
        ("out_of_range", whole.replace(b'"signal": 9', b'"signal": 9, "after": 1e999')),
        ("out_of_range", but(pid=2**40)),
        ("out_of_range", but(pid=-(2**40))),
        ("out_of_range", but(signal=65)),
        ("out_of_range", but(expiration_time=1e30)),
        ("out_of_range", but(deadline_ns=-1)),
        ("out_of_range", but(after=-0.5)),
        ("protected_process", but(pid=-3)),
        ("protected_process", but(pid=0)),
        ("protected_process", but(pid=1)),
        ("not_an_object", b"null"),
        ("not_an_object", b'"text"'),
        ("not_an_object", b"[1, 2]"),
        ("not_an_object", b"17"),
        ("missing_key", b"{}"),
        *(("missing_key", without(k)) for k in ("pid", "scope_id", "expiration_time", "signal")),
        ("wrong_type", but(pid=str(pid))),
        ("wrong_type", but(pid=True)),
        ("wrong_type", but(pid=None)),
        ("wrong_type", but(scope_id=7)),
        ("wrong_type", but(expiration_time="soon")),
        ("wrong_type", but(signal=9.0)),
        ("wrong_type", but(thread="main")),
        ("wrong_type", but(nested=1)),
        ("unsupported_version", but(version=2)),
        ("not_utf8", whole.replace(b"bad", b"\xff\xfe")),
        ("not_utf8", bytes(range(128, 200))),
        ("too_long", but(scope_id="x" * 10_000)),
        ("too_long", b"y" * 10_000),
        ("empty", b""),
        ("empty", b"   "),
    ]


def valid_lines(pid: int) -> list[bytes]:
    """Acquires and releases, half of them in torch's form, half in ours."""
    lines = []
    for number in range(VALID):
        acquire = number % 2 == 0
        request: dict[str, Any] = {
            "version": 1,
            "pid": pid,
            "scope_id": f"scope {number // 2 % SCOPES}",
            "expiration_time": time.time() + 3600 if acquire else -1,
            "signal": 9 if acquire else 0,
        }
        if number % 4 > 1:
            request |= {"thread": pid}
            request |= {"deadline_ns": time.monotonic_ns() + 3600 * 10**9} if acquire else {}
        lines.append(json.dumps(request).encode())
    return lines


def test_every_good_line_is_applied_and_every_bad_one_counted(
    files: FilePair, recorder: Recorder
) -> None:
    server = files.server(observer=recorder)
    worker, stuck = files.worker(), files.worker()
    shuffled = random.Random(20)  # the same every time
    bad = list(itertools.islice(itertools.cycle(bad_lines(worker.pid)), BAD))
    lines = valid_lines(worker.pid)
    for place, (_, line) in zip(sorted(shuffled.sample(range(VALID), BAD)), bad, strict=True):
        # In front of a good line; one that a writer left half-written goes on with the next one.
        half = line.startswith(b'{"version"') and line.endswith(b'"scope_i')
        lines[place] = line + (b"" if half else b"\n") + lines[place]
    data = b"\n".join(lines) + b"\n"
    stuck.tell("stuck", "hang", 0.5)
    # Only writes of whole lines are atomic, and the ones below are not.
    eventually(lambda: server.statistics.requests == 1)
    pipe = os.open(files.path, os.O_WRONLY)
    try:
        position = 0
        while position < len(data):  # cut anywhere
            size = shuffled.choice((1, 100, 4096, 50_000))
            position += os.write(pipe, data[position : position + size])
    finally:
        os.close(pipe)
    recorder.wait(WorkerKilled, stuck.pid)
    eventually(lambda: server._request_count >= VALID + 1, "every good line was applied")
    expected = Counter(reason for reason, _ in bad)
    rejected = server.statistics.rejected
    eventually(lambda: sum(rejected.values()) >= BAD, "every bad line was counted")
    assert {reason: n for reason, n in rejected.items() if n} == expected
    assert server._request_count == VALID + 1
    assert "bad" not in server.statistics.scopes
    for number in range(SCOPES):
        found = server.statistics.scopes[f"scope {number}"]
        each = VALID // 2 // SCOPES
        assert (found.acquires, found.releases, found.active) == (each, each, 0)
    [expired] = recorder.of(TimerExpired)
    assert expired.worker.pid == stuck.pid
    assert expired.lateness_seconds < 5  # the default max_interval is 10
    assert worker.alive


def test_a_line_left_half_written_does_not_cost_the_next_one(
    files: FilePair, recorder: Recorder
) -> None:
    server = files.server(observer=recorder)
    worker = files.worker()
    pipe = os.open(files.path, os.O_WRONLY)
    try:
        os.write(pipe, b'{"version": 1, "pid": 12, "scope_i')  # and its writer died
        worker.do("enter", "whole", 3600)
        eventually(lambda: server.statistics.requests == 1)
    finally:
        os.close(pipe)
    assert [scope for _, scope in server._timers] == ["whole"]
    assert server.statistics.rejected["not_json"] == 1


def test_rejections_are_logged_at_a_bounded_rate(files: FilePair, recorder: Recorder) -> None:
    server = files.server(observer=recorder)
    pipe = os.open(files.path, os.O_WRONLY)
    try:
        os.write(pipe, b"nonsense\n" * 400)
        eventually(lambda: server.statistics.rejected["not_json"] == 400)
        first = recorder.wait(RequestRejected)
        assert (first.reason, first.suppressed) == ("not_json", 0)
        assert "nonsense" in first.detail

        def told() -> bool:
            os.write(pipe, b"nonsense\n")
            return len(recorder.of(RequestRejected)) > 1

        eventually(told, "told again, later")
    finally:
        os.close(pipe)
    suppressed = recorder.of(RequestRejected)[-1].suppressed
    assert suppressed > 0
    assert len(recorder.of(RequestRejected)) < 5
