"""Raise, or go on unwatched: what was chosen, where, and what it costs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

import timers
from timers import FileTimerClient, LocalTimerClient, expires
from timers.transport.fifo_reader import FifoReader
from timers.worker._on_error import ErrorPolicy

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIMERS_ON_ERROR", raising=False)


class Closed:
    """A queue that is closed."""

    def put(self, item: object) -> None:
        raise ValueError(f"Queue is closed: {item!r}")


def file_client(tmp_path: Path, on_error: str | None) -> FileTimerClient:
    client = FileTimerClient(tmp_path / "nobody", on_error=on_error)
    client._channel.writer._connect_timeout = 0.0
    return client


def test_raising_is_the_default_as_in_torch(tmp_path: Path) -> None:
    client = file_client(tmp_path, None)
    with pytest.raises(BrokenPipeError, match="no timer server listens"):
        client.acquire("x", 1.0)
    with pytest.raises(BrokenPipeError, match="no timer server listens"):
        client.release("x")
    assert client.failures == 0


@pytest.mark.parametrize("origin", ["argument", "environment"])
def test_warning_lets_the_code_run_says_so_once_and_counts(
    tmp_path: Path,
    origin: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if origin == "environment":
        monkeypatch.setenv("TIMERS_ON_ERROR", "warn")
    client = file_client(tmp_path, "warn" if origin == "argument" else None)
    ran = 0
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with expires(1, "x", client):
                ran += 1
    assert (ran, client.failures) == (3, 6)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "no timer server listens" in record.getMessage()
    assert "goes on without timers" in record.getMessage()


def test_a_client_that_went_on_without_a_server_uses_one_that_comes(tmp_path: Path) -> None:
    client = file_client(tmp_path, "warn")
    client.acquire("x", 1.0)
    assert client.failures == 1
    reader = FifoReader(str(tmp_path / "nobody"))
    client.acquire("y", 1.0)
    assert b'"y"' in reader.read()
    assert client.failures == 1
    reader.close()


def test_the_argument_wins_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMERS_ON_ERROR", "warn")
    with pytest.raises(BrokenPipeError):
        file_client(tmp_path, "raise").acquire("x", 1.0)
    file_client(tmp_path, None).acquire("x", 1.0)


def test_an_empty_variable_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMERS_ON_ERROR", "")
    with pytest.raises(BrokenPipeError):
        file_client(tmp_path, None).acquire("x", 1.0)


@pytest.mark.parametrize("bad", ["ignore", "WARN", " warn"])
def test_a_wrong_choice_names_its_origin(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=f"^on_error='{bad}': must be one of raise, warn"):
        ErrorPolicy(bad)
    monkeypatch.setenv("TIMERS_ON_ERROR", bad)
    with pytest.raises(ValueError, match=f"environment variable TIMERS_ON_ERROR='{bad}'"):
        ErrorPolicy(None)
    assert ErrorPolicy("raise").choice == "raise"


def test_the_queue_client_follows_the_same_choice(caplog: pytest.LogCaptureFixture) -> None:
    queue: Any = Closed()
    with pytest.raises(ValueError, match="Queue is closed"):
        LocalTimerClient(queue).acquire("x", 1.0)
    client = LocalTimerClient(queue, on_error="warn")
    with caplog.at_level(logging.WARNING), expires(1, "x", client):
        pass
    assert client.failures == 2
    assert len(caplog.records) == 1


def test_a_request_that_can_never_be_sent_is_raised_all_the_same(tmp_path: Path) -> None:
    # Failing open is for servers that are away, not for mistakes in the program.
    with pytest.raises(timers.TimerError, match="shorter scope"):
        file_client(tmp_path, "warn").acquire("s" * 5000, 1.0)
