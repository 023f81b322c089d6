"""Whatever can be called in ``torch.distributed.elastic.timer`` can be called the same here."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

import pytest

import timers
from support.torch import require_torch, torch_module

require_torch()

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULES = ("api", "local_timer", "file_based_local_timer", "debug_info_logging")
PRIVATE = ("_send_request",)
"""What programs are known to call although its name says not to."""

SERVER_METHODS = {
    "clear_timers",
    "get_expired_timers",
    "get_last_progress_time",
    "is_process_running",
    "register_timers",
    "run_once",
    "start",
    "stop",
}


def pairs(module: str) -> Iterator[tuple[str, Any, Any]]:
    """Each public name of a module of torch's, with what it is here and there."""
    ours, theirs = importlib.import_module(f"timers.{module}"), torch_module(module)
    assert theirs.__all__
    for name in theirs.__all__:
        assert name in ours.__all__
        yield name, getattr(ours, name), getattr(theirs, name)


def methods(of: type) -> dict[str, Any]:
    """The methods and properties of a class as they are written in it or in its bases."""
    return {
        name: inspect.getattr_static(of, name)
        for name, value in inspect.getmembers(of)
        if (not name.startswith("_") or name in PRIVATE)
        and (callable(value) or isinstance(value, property))
    }


def misunderstood(ours: Any, theirs: Any) -> list[str]:
    """In what a call that ``theirs`` accepts would be another one, or an error, to ``ours``."""
    if isinstance(theirs, property):
        return [] if isinstance(ours, property) else [f"{ours} is not a property"]
    own, their = (list(inspect.signature(of).parameters.values()) for of in (ours, theirs))
    found = [
        f"takes {mine} for {his}"
        for mine, his in zip(own, their, strict=False)
        if (mine.name, mine.kind) != (his.name, his.kind)
        or (his.default is not inspect.Parameter.empty and mine.default != his.default)
    ]
    found += [f"does not take {his}" for his in their[len(own) :]]
    found += [
        f"asks for {mine}" for mine in own[len(their) :] if mine.default is inspect.Parameter.empty
    ]
    return found


def test_what_is_compared_is_there() -> None:
    torchs = torch_module("file_based_local_timer").FileTimerServer
    assert set(methods(torchs)) >= SERVER_METHODS


def test_the_comparison_sees_a_difference() -> None:
    def theirs(file_path: str, run_id: str, max_interval: float = 10) -> None: ...
    def renamed(path: str, run_id: str, max_interval: float = 10) -> None: ...
    def shorter(file_path: str, run_id: str) -> None: ...
    def other(file_path: str, run_id: str, max_interval: float = 60) -> None: ...
    def longer(file_path: str, run_id: str, max_interval: float = 10, *, more: int) -> None: ...
    def fine(file_path: str, run_id: str = "", max_interval: float = 10, more: int = 1) -> None: ...

    for ours in (renamed, shorter, other, longer):
        assert len(misunderstood(ours, theirs)) == 1
    assert misunderstood(fine, theirs) == []


def test_the_package_has_every_name_of_torchs() -> None:
    theirs = torch_module()
    names = {
        name
        for name, value in vars(theirs).items()
        if getattr(value, "__module__", "").startswith(theirs.__name__)
    }
    assert {"expires", "FileTimerServer", "LocalTimerClient"} <= names
    assert names <= set(timers.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_every_call_of_a_public_name_is_understood(module: str) -> None:
    found = [(name, misunderstood(ours, theirs)) for name, ours, theirs in pairs(module)]
    assert [(name, wrong) for name, wrong in found if wrong] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_call_of_a_method_is_understood(module: str) -> None:
    for name, ours, theirs in pairs(module):
        if inspect.isclass(theirs):
            own = methods(ours)
            for method, their in methods(theirs).items():
                assert isinstance(own[method], staticmethod) == isinstance(their, staticmethod)
                assert (name, method, misunderstood(own[method], their)) == (name, method, [])


@pytest.mark.parametrize("module", MODULES)
def test_classes_have_the_bases_that_torchs_have(module: str) -> None:
    for _, ours, theirs in pairs(module):
        if inspect.isclass(theirs):
            bases = {base.__name__ for base in theirs.__mro__ if "torch" in base.__module__}
            assert bases <= {base.__name__ for base in ours.__mro__}
