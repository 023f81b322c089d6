"""Blocks of hooks: opened and closed around what they are in, and never in its way."""

from __future__ import annotations

import inspect
import logging
import math
import os
import pickle
import signal
from typing import TYPE_CHECKING, Any

import pytest

import timers
from support.noting_client import NotingClient
from timers.auto import _blocks
from timers.auto._blocks import Hook, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


HOOK = Hook("checkpoint")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> NotingClient:
    made = NotingClient()
    monkeypatch.setattr(_blocks, "_client", lambda _: made)
    HOOK._kept.clear()
    return made


def double(number: int) -> int:
    """Twice the number."""
    if number < 0:
        raise ValueError("negative")
    return 2 * number


plain_double = double
globals()["double"] = wrapped(plain_double, HOOK, "save")


def test_a_call_is_a_block_and_returns_what_it_does(client: NotingClient) -> None:
    assert double(3) == 6
    assert client.calls == ["+save", "-save"]


def test_an_exception_passes_through_and_ends_the_block(client: NotingClient) -> None:
    with pytest.raises(ValueError, match="negative"):
        double(-1)
    assert client.calls == ["+save", "-save"]


def test_the_function_looks_as_before() -> None:
    assert inspect.signature(double) == inspect.signature(plain_double)
    assert inspect.getsource(double) == inspect.getsource(plain_double)
    assert inspect.getdoc(double) == "Twice the number."
    assert pickle.loads(pickle.dumps(double)) is double


def test_a_hook_that_fails_is_off_and_says_so_once(
    client: NotingClient, caplog: pytest.LogCaptureFixture
) -> None:
    hook = Hook("checkpoint")
    guarded = wrapped(plain_double, hook, "save")
    client.fails = True
    with caplog.at_level(logging.WARNING):
        assert [guarded(1), guarded(2)] == [2, 4]
    (record,) = caplog.records
    assert "the kind 'checkpoint'" in record.getMessage()
    assert "no server" in record.getMessage()
    client.fails = False
    assert guarded(3) == 6
    assert client.calls == []


def test_another_kind_goes_on(client: NotingClient) -> None:
    off, on = Hook("step"), Hook("batch")
    off.fail(OSError("x"))
    assert off.begin("step") is None
    on.end(on.begin("next_batch"))
    assert client.calls == ["+next_batch", "-next_batch"]


def test_a_deadline_is_looked_for_once_a_second(
    client: NotingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block within an inner loop would cost twice as much."""
    del client
    now, looked = [100.0], list[str]()

    def learned_seconds(scope: str, **_: object) -> float:
        looked.append(scope)
        return 5.0

    monkeypatch.setattr(_blocks, "monotonic", lambda: now[0])
    monkeypatch.setattr(_blocks, "learned_seconds", learned_seconds)
    hook = Hook("mpi")
    for now[0] in (100.0, 100.5, 100.9, 101.0, 101.5):
        hook.end(hook.begin("MPI_Send"))
        hook.end(hook.begin("MPI_Send", timed=False))
    assert looked == ["MPI_Send"] * 2


def test_a_patient_scope_has_no_deadline_until_something_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TIMERS_LEARNED", raising=False)
    monkeypatch.delenv("TIMERS_AUTO_DEADLINES", raising=False)
    hook = Hook("mpi", patient=frozenset({"MPI_Recv"}))
    assert [hook._deadline(scope) for scope in ("MPI_Recv", "MPI_Send")] == [
        (math.inf, 0),
        (1800.0, 0),
    ]
    monkeypatch.setenv("TIMERS_AUTO_DEADLINES", '{"mpi": 5}')
    assert hook._deadline("MPI_Recv") == (5.0, 0)


# -- which client they have -----------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in [name for name in os.environ if name.startswith(("TIMERS_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    _blocks._client.cache_clear()
    yield monkeypatch
    _blocks._client.cache_clear()


@pytest.mark.parametrize("action", ["kill", "report"])
def test_who_has_no_deadline_is_never_killed(environment: pytest.MonkeyPatch, action: str) -> None:
    asked: list[int] = []
    environment.setenv("TIMERS_AUTO_ACTION", action)
    with environment.context() as patch:
        patch.setattr(_blocks, "_client", asked.append)
        Hook("step").begin("step", timed=False)
    assert asked == [0]


@pytest.mark.parametrize("chosen", [True, False])
@pytest.mark.parametrize(
    ("action", "numbers"),
    [
        ("report", (0, 0)),
        ("kill", (signal.SIGKILL, signal.SIGKILL)),
        ("kill-chosen", (0, signal.SIGKILL)),
        ("", (0, 0)),
    ],
)
def test_nobody_is_killed_unless_that_is_asked_for(
    environment: pytest.MonkeyPatch, action: str, numbers: tuple[int, int], chosen: bool
) -> None:
    environment.setenv("TIMERS_SOCKET", "/nowhere/timers.sock")
    environment.setenv("TIMERS_AUTO_ACTION", action)
    client: Any = _blocks._client(_blocks._signal(chosen=chosen))
    assert isinstance(client, timers.SocketTimerClient)
    assert client.signal == numbers[chosen]


@pytest.mark.parametrize("variable", ["TIMERS_FILE", "TORCHELASTIC_TIMER_FILE"])
def test_over_the_pipe_there_are_none(
    environment: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    environment.setenv(variable, str(tmp_path / "pipe"))
    assert Hook("checkpoint").begin("save") is None


def test_without_a_server_there_are_no_blocks(environment: pytest.MonkeyPatch) -> None:
    del environment
    hook = Hook("step")
    assert hook.begin("step") is None
    assert hook.is_off
