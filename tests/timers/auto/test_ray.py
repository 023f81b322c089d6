"""Executions of Ray, against the least of it; ``tests/processes/test_ray.py`` has the real one."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import timers
from support.noting_client import NotingClient
from timers.auto import _blocks, _ray
from timers.auto._blocks import Hook
from timers.linux.labels import labels_of, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Context:
    """What Ray says of an execution."""

    def __init__(self) -> None:
        self.function, self.actor, self.name = "module.f", "", ""
        self.worker = SimpleNamespace(core_worker=SimpleNamespace())

    def get_task_function_name(self) -> str:
        return self.function

    def get_actor_id(self) -> str | None:
        return self.actor or None

    def get_actor_name(self) -> str:
        assert self.actor, "Ray ends the process that asks here"
        return self.name

    def get_node_id(self) -> str:
        return "node"

    def get_job_id(self) -> str:
        return "job"

    def get_task_id(self) -> str:
        return "task"


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Context:
    made = Context()
    ray = ModuleType("ray")
    ray.get_runtime_context = lambda: made  # type: ignore[attr-defined]  # any module
    monkeypatch.setitem(sys.modules, "ray", ray)
    return made


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[NotingClient]:
    made = NotingClient()
    monkeypatch.setattr(_blocks, "_client", lambda _: made)
    monkeypatch.setattr(_ray, "_tasks", Hook("task", unknown=math.inf))
    monkeypatch.setattr(_ray, "_scopes", set())
    monkeypatch.setattr(_ray, "_labels", [])
    monkeypatch.setattr(_ray, "_processes", {})
    monkeypatch.delenv("TIMERS_RECORDER_DIR", raising=False)
    yield made
    assert _ray._here.open == {}


@pytest.fixture
def worker() -> Any:
    """Ray's module, once the hooks are in it."""
    module: Any = ModuleType("ray._private.worker")
    module.titles = []

    @contextlib.contextmanager
    def _changeproctitle(title: str, next_title: str) -> Iterator[None]:
        module.titles.append(title)
        try:
            yield
        finally:
            module.titles.append(next_title)

    module._changeproctitle = _changeproctitle
    _ray.install_tasks(module)
    return module


def test_an_execution_is_a_block_within_what_ray_does(
    worker: Any, client: NotingClient, context: Context
) -> None:
    with worker._changeproctitle("ray::f", "ray::IDLE"):
        assert client.calls == ["+f"]
    assert client.calls == ["+f", "-f"]
    assert worker.titles == ["ray::f", "ray::IDLE"]
    context.function, context.actor = "module.outer.<locals>.Class.method", "actor"
    with worker._changeproctitle("ray::Class.method", "ray::Class"):
        pass
    assert client.calls[2:] == ["+Class.method", "-Class.method"]


@pytest.mark.usefixtures("context")
def test_an_exception_passes_through_without_a_frame_of_ours(
    worker: Any, client: NotingClient
) -> None:
    with pytest.raises(ValueError, match="wrong") as raised, worker._changeproctitle("a", "b"):
        raise ValueError("wrong")
    assert [entry.path.name for entry in raised.traceback] == ["test_ray.py"]  # type: ignore[union-attr]  # a path
    assert client.calls == ["+f", "-f"]
    assert worker.titles == ["a", "b"]


@pytest.mark.usefixtures("context")
def test_of_executions_at_a_time_each_end_begins_the_countdown_anew(
    worker: Any, client: NotingClient
) -> None:
    first, second = worker._changeproctitle("1", ""), worker._changeproctitle("2", "")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert client.calls == ["+f", "-f", "+f"]
    second.__exit__(None, None, None)
    assert client.calls == ["+f", "-f", "+f", "-f"]


def test_names_are_bounded_in_number_and_length(
    worker: Any, client: NotingClient, context: Context
) -> None:
    for number in range(300):
        context.function = f"module.{'f' * 300}" if number == 1 else f"module.f{number}"
        with worker._changeproctitle("", ""):
            pass
    scopes = {call[1:] for call in client.calls}
    assert len(scopes) == 201
    assert max(map(len, scopes)) == 120
    assert client.calls[-1] == "-task"


def test_what_fails_turns_it_off_and_ray_goes_on(
    worker: Any, client: NotingClient, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    context.get_task_id = None  # type: ignore[assignment,method-assign]  # a Ray that is not as expected
    context.worker = None  # type: ignore[assignment]  # as above
    context.get_actor_id = None  # type: ignore[assignment,method-assign]  # as above
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with worker._changeproctitle("a", "b"):
                pass
    assert client.calls == []
    assert worker.titles == ["a", "b"] * 2
    (record,) = caplog.records
    assert "the kind 'task'" in record.getMessage()


def test_it_says_what_it_is_and_does(
    worker: Any,
    client: NotingClient,
    context: Context,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import os
    import threading

    monkeypatch.setenv("TIMERS_RECORDER_DIR", str(tmp_path))
    monkeypatch.setattr(
        "timers.linux.procfs.environment", lambda _: {"TIMERS_RECORDER_DIR": str(tmp_path)}
    )
    context.function, context.actor, context.name = "module.Class.method", "actor", "first"
    with worker._changeproctitle("a", "b"):
        assert name_of(os.getpid()) == "actor Class 'first'"
        assert labels_of(os.getpid(), threading.get_native_id()) == {
            "ray_node_id": "node",
            "ray_job_id": "job",
            "ray_actor_id": "actor",
            "ray_actor_name": "first",
            "ray_task": "Class.method",
            "ray_task_id": "task",
            "ray_attempt": "0",
        }
        assert "ray_task" not in labels_of(os.getpid(), 1)
    assert client.calls == ["+Class.method", "-Class.method"]


@pytest.mark.usefixtures("client")
def test_a_library_of_rays_own_has_no_block(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMERS_AUTO_DEADLINES", '{"task": 5}')
    context.function, context.actor = "ray.serve.Replica.handle_request", "actor"
    assert _ray._begin() is None


@pytest.mark.parametrize(
    ("chosen", "function", "expected"),
    [
        ("{}", "module.f", None),
        ('{"task": 5}', "module.f", 5.0),
        ('{"f": 3, "task": 5}', "module.f", 3.0),
        ('{"f": 3, "task": 5}', "ray.train.f", 3.0),
        ("nonsense", "module.f", None),
    ],
)
@pytest.mark.usefixtures("client")
def test_only_who_has_a_deadline_can_expire(
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    chosen: str,
    function: str,
    expected: float | None,
) -> None:
    monkeypatch.setenv("TIMERS_AUTO_DEADLINES", chosen)
    monkeypatch.delenv("TIMERS_LEARNED", raising=False)
    made: list[float] = []

    def noted(after: float, scope: str, client: timers.TimerClient) -> timers.expires:
        made.append(after)
        return timers.expires(after, scope, client)

    monkeypatch.setattr(_blocks, "expires", noted)
    context.function = function
    _ray._end(str(_ray._begin()))
    assert made == [_blocks._NEVER_SECONDS if expected is None else expected]
