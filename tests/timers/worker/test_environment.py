"""A worker that is configured by what its launcher put into the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import timers
from timers import FileTimerClient
from timers.transport.fifo_reader import FifoReader
from timers.transport.wire import Decoder
from timers.worker import scopes
from timers.worker.environment import FILE_VARIABLES, SOCKET_VARIABLE, NoTimers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def configured_by_nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (*FILE_VARIABLES, SOCKET_VARIABLE, "TIMERS_ON_ERROR"):
        monkeypatch.delenv(name, raising=False)
    yield
    timers.configure(None)


@pytest.mark.parametrize("name", FILE_VARIABLES)
def test_the_path_of_a_pipe_is_enough(tmp_path: Path, name: str) -> None:
    reader = FifoReader(str(tmp_path / "pipe"))
    client = timers.configure_from_env({name: reader.path})
    assert isinstance(client, FileTimerClient)
    assert scopes._client is client
    with timers.expires(after=5, scope="x"):
        pass
    messages, _ = Decoder().feed(reader.read())
    assert [(message.pid, message.scope_id) for message in messages] == [(os.getpid(), "x")] * 2
    reader.close()


def test_the_environment_of_the_process_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_TIMER_FILE", str(tmp_path / "pipe"))
    client = timers.configure_from_env()
    assert isinstance(client, FileTimerClient)
    assert client._file_path == str(tmp_path / "pipe")


def test_our_own_variable_comes_first(tmp_path: Path) -> None:
    environ = {"TORCHELASTIC_TIMER_FILE": "/torchs", "TIMERS_FILE": str(tmp_path / "ours")}
    client = timers.configure_from_env(environ)
    assert isinstance(client, FileTimerClient)
    assert client._file_path == str(tmp_path / "ours")


def test_the_socket_comes_before_the_pipe(tmp_path: Path) -> None:
    pipe = str(tmp_path / "pipe")
    environ = {"TIMERS_SOCKET": str(tmp_path / "socket"), "TIMERS_FILE": pipe}
    client = timers.configure_from_env(environ)
    assert isinstance(client, timers.SocketTimerClient)
    assert scopes._client is client
    assert isinstance(timers.configure_from_env({**environ, "TIMERS_SOCKET": ""}), FileTimerClient)


def test_an_empty_variable_is_none(tmp_path: Path) -> None:
    environ = {"TIMERS_FILE": "", "TORCHELASTIC_TIMER_FILE": str(tmp_path / "pipe")}
    client = timers.configure_from_env(environ)
    assert isinstance(client, FileTimerClient)
    assert isinstance(timers.configure_from_env({"TIMERS_FILE": ""}), NoTimers)


def test_without_a_server_the_same_script_runs_unwatched() -> None:
    client = timers.configure_from_env({})
    assert isinstance(client, NoTimers)
    assert scopes._client is client
    ran = []
    with timers.expires(after=0):
        ran.append("plain")
    timers.expires(after=0)(ran.append)("decorated")
    assert ran == ["plain", "decorated"]


def test_what_was_configured_before_is_replaced(tmp_path: Path) -> None:
    timers.configure(FileTimerClient(tmp_path / "old"))
    assert timers.configure_from_env({}) is scopes._client


def test_a_block_without_a_client_takes_the_server_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = FifoReader(str(tmp_path / "pipe"))
    monkeypatch.setenv("TIMERS_FILE", reader.path)
    with timers.expires(after=5, scope="x"):
        assert isinstance(scopes._client, FileTimerClient)
    messages, _ = Decoder().feed(reader.read())
    assert [message.scope_id for message in messages] == ["x", "x"]
    reader.close()


def test_without_any_server_the_message_says_what_to_do() -> None:
    with (
        pytest.raises(RuntimeError, match=r"timers\.configure_from_env\(\) turns timers off"),
        timers.expires(after=5),
    ):
        pass
    assert scopes._client is None
