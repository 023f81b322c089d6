"""In a worker of Ray: where its watchdog is found, and which errors get a note."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from timers.integrations import ray as integration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class CrashedError(Exception):
    """In place of Ray's WorkerCrashedError."""


class ActorError(Exception):
    """In place of Ray's RayActorError."""

    actor_id = "actor"


def module(name: str) -> Any:
    return ModuleType(name)


class Fake:
    """Of Ray, what the module asks for."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.asked: list[tuple[str, str]] = []
        self.answer: Any = ["timers: it was reaped\x1b"]
        self.module = module("ray")
        self.module.exceptions = SimpleNamespace(
            WorkerCrashedError=CrashedError, RayActorError=ActorError
        )
        meeting = SimpleNamespace(reaped=SimpleNamespace(remote=self._ask))
        self.module.get_actor = lambda _name, **_: meeting
        self.module.get = self._get
        self.module.get_runtime_context = lambda: SimpleNamespace(get_node_id=lambda: "n" * 56)
        outer = self

        class Worker:
            def deserialize_objects(self, objects: Any, references: Any) -> Any:
                del objects, references
                return outer.values

        self.worker = module("ray._private.worker")
        self.worker.Worker = Worker

    def _ask(self, *ids: Any) -> None:
        self.asked.append(ids)

    def _get(self, _reference: object, timeout: float) -> Any:
        assert timeout > 0
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def fetch(self, *values: Any) -> list[Any]:
        """Get values as Ray does, of tasks that are called after their position."""
        self.values = list(values)
        references = [
            SimpleNamespace(task_id=lambda i=i: SimpleNamespace(hex=lambda: f"task{i}"))
            for i in range(len(values))
        ]
        return list(self.worker.Worker().deserialize_objects([None] * len(values), references))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    made = Fake()
    private = ModuleType("ray._private")
    for name, module in (
        ("ray", made.module),
        ("ray._private", private),
        ("ray._private.worker", made.worker),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    for name in [name for name in os.environ if name.startswith("TIMERS_")]:
        monkeypatch.delenv(name)
    before = list(sys.meta_path)
    yield made
    sys.meta_path[:] = before


def test_an_error_of_a_reaped_task_or_actor_gets_a_note(ray: Fake) -> None:
    integration.note_reaps()
    integration.note_reaps()
    found = ray.fetch(1, CrashedError(), ActorError())
    assert ray.asked == [("task1", ""), ("task2", "actor")]
    assert found[0] == 1
    assert [error.__notes__ for error in found[1:]] == [["timers: it was reaped?"]] * 2


def test_other_errors_are_not_asked_about(ray: Fake) -> None:
    integration.note_reaps()
    (error,) = ray.fetch(ValueError())
    assert ray.asked == []
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize("answer", [[], None, TimeoutError(), RuntimeError("the actor is dead")])
def test_without_an_answer_the_error_is_as_it_was(ray: Fake, answer: Any) -> None:
    ray.answer = answer
    integration.note_reaps()
    (error,) = ray.fetch(CrashedError())
    assert not hasattr(error, "__notes__")


def test_an_error_of_the_asking_itself_asks_nothing_more(ray: Fake) -> None:
    integration.note_reaps()

    def get(*_: object, **__: object) -> list[str]:
        ray.fetch(ActorError())
        return ["said"]

    ray.module.get = get
    ray.fetch(CrashedError())
    assert len(ray.asked) == 1


def test_where_waiting_would_be_in_vain_nothing_is_asked(ray: Fake) -> None:
    integration.note_reaps()

    async def fetch() -> list[Any]:
        return ray.fetch(CrashedError())

    asyncio.run(fetch())
    assert ray.asked == []
    found: list[bool] = []
    import _thread

    done = threading.Lock()
    done.acquire()

    def outside() -> None:
        threading.current_thread()  # which has none of threading's own
        found.append(integration._may_block())
        done.release()

    _thread.start_new_thread(outside, ())
    assert done.acquire(timeout=30)
    assert found == [False]
    assert integration._may_block()


def test_a_worker_finds_the_watchdog_of_its_node(
    ray: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del ray
    monkeypatch.setenv("TIMERS_RAY_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("TIMERS_AUTO", "task")
    for name in ("TIMERS_SOCKET", "TIMERS_LEARNED", "TIMERS_SERVER_PID"):
        monkeypatch.setenv(name, "")
    (tmp_path / f"{'n' * 16}.pid").write_text("4711")
    installed: list[str] = []
    monkeypatch.setattr(integration, "install_here", installed.append)
    integration.setup_worker()
    assert os.environ["TIMERS_SOCKET"] == str(tmp_path / f"{'n' * 16}.sock")
    assert os.environ["TIMERS_LEARNED"] == str(tmp_path / f"{'n' * 16}.learned")
    assert os.environ["TIMERS_SERVER_PID"] == "4711"
    assert installed == ["task"]


def test_whatever_fails_the_worker_starts_and_its_own_hook_is_called(
    ray: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray.module.get_runtime_context = None
    theirs: Any = ModuleType("module_with_a_hook")
    called: list[int] = []
    theirs.setup = lambda: called.append(1)
    monkeypatch.setitem(sys.modules, "module_with_a_hook", theirs)
    monkeypatch.setenv("TIMERS_RAY_DIRECTORY", "/nowhere")
    monkeypatch.setenv("TIMERS_AUTO", "all")
    monkeypatch.setenv("TIMERS_RAY_SETUP", "module_with_a_hook.setup")
    integration.setup_worker()
    assert called == [1]
    assert "timers: no timers in process" in capsys.readouterr().err


@pytest.mark.parametrize("auto", ["off", ""])
def test_the_actors_of_our_own_are_not_watched(
    ray: Fake, monkeypatch: pytest.MonkeyPatch, auto: str
) -> None:
    ray.module.get_runtime_context = None
    monkeypatch.setenv("TIMERS_RAY_DIRECTORY", "/nowhere")
    monkeypatch.setenv("TIMERS_AUTO", auto)
    integration.setup_worker()
    assert "TIMERS_SOCKET" not in os.environ
