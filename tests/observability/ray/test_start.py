"""On the driver: what is refused, and what is added to a job's runtime environment.

That it works is shown with real clusters in ``tests/processes/test_ray_cluster.py``.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, Any

import pytest

import observability.ray
from observability.ray._start import _runtime_env
from observability.ray._watchdog import own_directory
from support.ray_actors import fake_ray

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = fake_ray()
    made.is_initialized = lambda: False
    monkeypatch.setitem(sys.modules, "ray", made)
    return made


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "ray":
                raise ModuleNotFoundError("No module named 'ray'", name="ray")

    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Nothing(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'expiration-timers\[ray\]'"):
        observability.ray.start()


def test_after_ray_init_it_is_too_late(ray: Any) -> None:
    ray.is_initialized = lambda: True
    with pytest.raises(
        RuntimeError, match=r"call observability\.ray\.start\(\.\.\.\) in its place"
    ):
        observability.ray.start()


@pytest.mark.parametrize("after", [0, -1.0, {"f": 10**9}])
def test_what_is_no_deadline_is_refused_before_ray_starts(ray: Any, after: Any) -> None:
    del ray
    with pytest.raises(ValueError, match="must be more than 0 seconds"):
        observability.ray.start(after=after)


def test_a_runtime_environment_is_kept_and_added_to() -> None:
    given = {"pip": ["x"], "env_vars": {"MINE": "1", "TIMERS_AUTO": "off"}}
    made = _runtime_env(given, {"TIMERS_AUTO": "all", "TIMERS_RAY_MEETING": "m"})
    assert made == {
        "pip": ["x"],
        "env_vars": {"MINE": "1", "TIMERS_AUTO": "off", "TIMERS_RAY_MEETING": "m"},
        "worker_process_setup_hook": "timers.integrations.ray.setup_worker",
    }
    assert given["env_vars"] == {"MINE": "1", "TIMERS_AUTO": "off"}


def test_a_setup_hook_of_the_job_is_called_too(monkeypatch: pytest.MonkeyPatch) -> None:
    named = _runtime_env({"worker_process_setup_hook": "job.setup"}, {})
    assert named["env_vars"] == {"TIMERS_RAY_SETUP": "job.setup"}
    called: list[str] = []
    hook: Callable[[], None] = lambda: called.append("theirs")  # noqa: E731  # any callable
    both = _runtime_env({"worker_process_setup_hook": hook}, {})["worker_process_setup_hook"]
    monkeypatch.setattr("timers.integrations.ray.setup_worker", lambda: called.append("ours"))
    both()
    assert called == ["ours", "theirs"]


def test_a_directory_is_made_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "sockets"
    own_directory(str(path))
    own_directory(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["open", "file", "link"])
def test_a_directory_that_others_may_use_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "sockets"
    if kind == "open":
        path.mkdir()
        path.chmod(0o777)
    elif kind == "file":
        path.touch(0o600)
    else:
        os.symlink(tmp_path, path)
    with pytest.raises(PermissionError, match="remove it, or give start\\(\\) another directory"):
        own_directory(str(path))
