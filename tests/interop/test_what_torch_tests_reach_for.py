"""The private names that PyTorch's own tests use, with a real process where they invent a pid."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING
from unittest import mock

import pytest

import timers
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process of this user that does nothing until it is ended."""
    found = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield found
    found.kill()
    found.communicate()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[timers.FileTimerServer]:
    found = timers.FileTimerServer(tmp_path / "pipe", "run", 0.01)
    yield found
    found.stop()


def send(server: timers.FileTimerServer, pid: int, scope: str, expiration_time: float) -> None:
    client = timers.FileTimerClient(server._file_path)
    client._send_request(timers.FileTimerRequest(pid, scope, expiration_time, 9))


def test_timers_are_kept_by_pid_and_scope(
    server: timers.FileTimerServer, process: subprocess.Popen[bytes]
) -> None:
    server.start()
    for scope in ("first", "second"):
        send(server, process.pid, scope, time.time() + 3600)
    send(server, process.pid, "first", -1)
    eventually(lambda: server._request_count == 3)
    assert set(server._timers) == {(process.pid, "second")}
    assert server._timers[process.pid, "second"].scope_id == "second"


def test_run_once_serves_what_was_sent_and_may_be_followed_by_stop(
    server: timers.FileTimerServer, process: subprocess.Popen[bytes]
) -> None:
    server.start()
    for _ in range(100):
        send(server, process.pid, "step", time.time() + 3600)
    server.run_once()
    assert server._request_count == 100
    assert not os.path.exists(server._file_path)
    server.run_once()
    server.stop()
    server.run_once()
    assert server._request_count == 100
    assert len(server._timers) == 1


def test_the_reap_is_looked_up_on_the_class_when_it_happens(
    server: timers.FileTimerServer, process: subprocess.Popen[bytes]
) -> None:
    server.start()
    with mock.patch.object(timers.FileTimerServer, "_reap_worker", return_value=True) as reap:
        send(server, process.pid, "expired", time.time() - 60)
        send(server, process.pid, "valid", time.time() + 60)
        server.run_once()
    reap.assert_called_once_with(process.pid, 9)
    assert server._timers == {}
    assert process.poll() is None


def test_the_step_before_the_kill_is_looked_up_in_the_module(
    server: timers.FileTimerServer, process: subprocess.Popen[bytes]
) -> None:
    server.start()
    name = "timers.file_based_local_timer.log_debug_info_for_expired_timers"
    with mock.patch(name) as step:
        send(server, process.pid, "expired", time.time() - 60)
        assert process.wait(60) == -9
        server.run_once()
    step.assert_called_once()
    run_id, expired = step.call_args.args
    assert run_id == "run"
    assert list(expired) == [process.pid]


def test_is_process_running_decides_about_a_worker_that_has_ended(
    server: timers.FileTimerServer, process: subprocess.Popen[bytes]
) -> None:
    server.start()
    with (
        mock.patch.object(timers.FileTimerServer, "is_process_running", return_value=True) as asked,
        mock.patch.object(timers.FileTimerServer, "_reap_worker", return_value=True) as reap,
    ):
        send(server, process.pid, "test", time.time() + 3600)
        eventually(lambda: server._request_count == 1)
        process.kill()
        process.wait()
        eventually(lambda: asked.called)
        assert set(server._timers) == {(process.pid, "test")}
        send(server, process.pid, "test", time.time() - 60)
        server.run_once()
    asked.assert_called_with(process.pid)
    reap.assert_called_once_with(process.pid, 9)
    assert server._timers == {}


def test_a_replaced_watchdog_round_is_the_one_that_runs(server: timers.FileTimerServer) -> None:
    with mock.patch.object(server, "_run_watchdog", wraps=server._run_watchdog) as rounds:
        server.start()
        eventually(lambda: rounds.call_count > 3)
        server.stop()
