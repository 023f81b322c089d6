"""Callbacks for training loops of others, against the least of these; the real ones are in
``tests/processes/test_frameworks.py``."""

from __future__ import annotations

import math
import pickle
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import timers
from timers.integrations import lightning, transformers
from timers.testing import RecordingClient

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordingClient]:
    for name, base in (("lightning.pytorch", "Callback"), ("transformers", "TrainerCallback")):
        module = ModuleType(name)
        setattr(module, base, type(base, (), {}))
        monkeypatch.setitem(sys.modules, name, module)
    lightning._callback_class.cache_clear()
    transformers._callback_class.cache_clear()
    made = RecordingClient()
    timers.configure(made)
    yield made
    timers.configure(None)
    lightning._callback_class.cache_clear()
    transformers._callback_class.cache_clear()


@pytest.mark.parametrize("kind", ["train", "validation", "test", "predict"])
def test_each_batch_of_lightning_is_a_block(client: RecordingClient, kind: str) -> None:
    callback = lightning.timers_callback(batch_after=5)
    for number in range(2):
        getattr(callback, f"on_{kind}_batch_start")("trainer", "module", "batch", number)
        getattr(callback, f"on_{kind}_batch_end")("trainer", "module", None, "batch", number)
    scope = f"{kind}_batch"
    assert client.names == [("acquire", scope), ("release", scope)] * 2


def test_an_exception_ends_what_is_open(client: RecordingClient) -> None:
    callback = lightning.timers_callback()
    callback.on_train_batch_start("trainer", "module", "batch", 0)
    callback.on_exception("trainer", "module", ValueError())
    assert client.names == [("acquire", "train_batch"), ("release", "train_batch")]


def test_each_step_of_transformers_is_a_block(client: RecordingClient) -> None:
    callback = transformers.timers_callback(step_after=5)
    callback.on_step_begin("arguments", "state", "control", model=None)
    callback.on_step_end("arguments", "state", "control", model=None)
    callback.on_step_begin("arguments", "state", "control", model=None)
    callback.on_train_end("arguments", "state", "control", model=None)
    assert client.names == [("acquire", "train_step"), ("release", "train_step")] * 2


@pytest.mark.parametrize("callback", ["lightning", "transformers"])
def test_it_survives_being_sent_to_another_process(callback: str) -> None:
    made: Any = {
        "lightning": lambda: lightning.timers_callback(batch_after=7),
        "transformers": lambda: transformers.timers_callback(step_after=7),
    }[callback]()
    again = pickle.loads(pickle.dumps(made))
    assert type(again) is type(made)
    assert vars(again) == vars(made)


@pytest.mark.parametrize("after", [-1.0, math.inf])
def test_what_is_no_duration_is_refused_at_once(after: float) -> None:
    with pytest.raises(ValueError, match="finite number"):
        lightning.timers_callback(batch_after=after)
    with pytest.raises(ValueError, match="finite number"):
        transformers.timers_callback(step_after=after)


def test_without_a_client_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TIMERS_SOCKET", "TIMERS_FILE", "TORCHELASTIC_TIMER_FILE"):
        monkeypatch.delenv(name, raising=False)
    timers.configure(None)
    lightning.timers_callback().setup("trainer", "module", stage="fit")
    with timers.expires(after=1, scope="x"):
        pass
    callback = transformers.timers_callback()
    callback.on_init_end("arguments", "state", "control")
    callback.on_step_begin("arguments", "state", "control")
    callback.on_step_end("arguments", "state", "control")
