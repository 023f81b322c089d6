"""Tasks and methods of actors of Ray: each execution is a block, named after its function.

Decision: Ray's own hook around an execution is its tracing, which wants OpenTelemetry in each
worker, has to be asked for where the driver starts, and adds a parameter to the user's functions.
So the context manager is replaced that Ray enters around each execution to rename the process:
nothing of the user's is wrapped, and neither a stack nor a traceback gets a frame of ours.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from math import inf
from typing import TYPE_CHECKING, Any

from timers.linux.labels import Labels
from timers.linux.notes import DIRECTORY_VARIABLE
from timers.linux.ranks import announce

from ._blocks import Hook
from ._chosen import chosen_seconds

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import ModuleType

    from timers.worker.scopes import expires

_tasks = Hook("task", unknown=inf)  # a task may take seconds or days, and nobody says which
_OTHER = "task"
"""The scope of functions beyond the first :data:`_MOST_SCOPES`."""
_MOST_SCOPES = 200
_LONGEST_SCOPE = 120
_scopes: set[str] = set()


class _Open:
    """The block of one scope in one thread, for all executions of it that are under way.

    There are several in an actor with ``async`` methods: then its end is due when none of them has
    ended for so long.
    """

    __slots__ = ("block", "executions")

    def __init__(self) -> None:
        self.executions = 0
        self.block: expires | None = None


class _Thread(threading.local):
    def __init__(self) -> None:
        self.open: dict[str, _Open] = {}


_here = _Thread()
_labels: list[Labels] = []
_processes: dict[str, tuple[str, dict[str, str]]] = {}
"""What this process is, by the id of its actor; under "" before it is one."""
_announced: list[dict[str, str]] = []
"""The ranks that this process said last."""


def install_tasks(module: ModuleType) -> None:
    """Time the executions of tasks and methods.

    :param module: ``ray._private.worker``.
    """
    titled = module._changeproctitle  # noqa: SLF001  # see the module's description

    @functools.wraps(titled)
    def _changeproctitle(title: str, next_title: str) -> _Execution:
        return _Execution(titled(title, next_title))

    module._changeproctitle = _changeproctitle  # type: ignore[attr-defined]  # noqa: SLF001  # as above


class _Execution:
    """Ray's own context of an execution, with a block in it."""

    __slots__ = ("_inner", "_scope")

    def __init__(self, inner: AbstractContextManager[None]) -> None:
        self._inner = inner
        self._scope: str | None = None

    def __enter__(self) -> None:
        self._inner.__enter__()
        self._scope = _begin()

    def __exit__(self, *raised: object) -> bool | None:
        if self._scope is not None:
            _end(self._scope)
        return self._inner.__exit__(*raised)  # type: ignore[arg-type]  # what Python hands over


def _begin() -> str | None:
    """Open a block for what Ray is about to execute in this thread; return its scope."""
    if _tasks.is_off:
        return None
    try:
        context = sys.modules["ray"].get_runtime_context()
        function, actor = context.get_task_function_name() or "", context.get_actor_id()
        scope = _scope(function, is_method=actor is not None)
        _write_labels(context, scope, actor)
        if function.startswith("ray.train."):
            _announce_rank()
        if function.startswith("ray.") and chosen_seconds(scope, None) is None:
            # A library of Ray's own may wait for a request, or control a training, for days.
            return None
    except Exception as error:  # noqa: BLE001  # whatever it is, the task goes on
        _tasks.fail(error)
        return None
    opened = _here.open.setdefault(scope, _Open())
    opened.executions += 1
    if opened.executions == 1:
        opened.block = _tasks.begin(scope)
    return scope


def _end(scope: str) -> None:
    """Close what :func:`_begin` has opened. Never raises."""
    opened = _here.open.get(scope)
    if opened is None:  # of another thread
        return
    opened.executions -= 1
    _tasks.end(opened.block)
    if opened.executions:
        opened.block = _tasks.begin(scope)
    else:
        del _here.open[scope]
    if _labels and not _here.open:
        _labels[0].done(threading.get_native_id())


def _scope(function: str, *, is_method: bool) -> str:
    """Make ``Class.method`` or ``function`` of ``module.outer.<locals>.Class.method``."""
    names = function.split(".")
    scope = ".".join(names[-2:] if is_method else names[-1:])[:_LONGEST_SCOPE] or _OTHER
    if scope not in _scopes:
        if len(_scopes) >= _MOST_SCOPES:
            return _OTHER
        _scopes.add(scope)
    return scope


def _write_labels(context: Any, scope: str, actor: str | None) -> None:
    """Leave what a report needs to name this worker as Ray's users know it."""
    if not _labels:
        _labels.append(Labels(os.environ.get(DIRECTORY_VARIABLE) or None))
    known = _processes.get(actor or "")
    if known is None:
        known = _processes[actor or ""] = _describe(context, scope, actor)
    work = {
        "ray_task": scope,
        "ray_task_id": context.get_task_id() or "",
        "ray_attempt": str(_attempt(context)),
    }
    _labels[0].write(*known, threading.get_native_id(), work)


def _describe(context: Any, scope: str, actor: str | None) -> tuple[str, dict[str, str]]:
    """Return what users of Ray call this process, and its labels."""
    labels = {"ray_node_id": context.get_node_id(), "ray_job_id": context.get_job_id()}
    if actor is None:
        return "Ray worker", labels
    # To ask for the name where there is no actor ends the process.
    own = context.get_actor_name()
    name = f"actor {scope.partition('.')[0]}" + (f" {own!r}" if own else "")
    return name, {**labels, "ray_actor_id": actor, "ray_actor_name": own or ""}


def _attempt(context: Any) -> int:
    """Return how often this task has been begun before."""
    ask = getattr(context.worker.core_worker, "get_current_task_attempt_number", None)
    return int(ask()) if ask is not None else 0


def _announce_rank() -> None:
    """Say which rank of a Ray Train job this worker is, once it has been told."""
    train = sys.modules.get("ray.train")
    try:
        given = train.get_context() if train is not None else None
        ranks = {} if given is None else {
            "RANK": given.get_world_rank(),
            "LOCAL_RANK": given.get_local_rank(),
            "WORLD_SIZE": given.get_world_size(),
        }  # fmt: skip
    except Exception:  # noqa: BLE001  # it has not been told yet
        return
    known = {name: str(value) for name, value in ranks.items() if value is not None}
    if known and [known] != _announced:
        _announced[:] = [known]
        announce({**os.environ, **known})
