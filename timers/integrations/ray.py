"""In the processes of a Ray job: find the watchdog of the node, time tasks, name the reap.

``observability.ray.start`` has Ray call :func:`setup_worker` in each of its workers, by the
``worker_process_setup_hook`` of the job's runtime environment.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from timers.auto import AUTO_VARIABLE
from timers.auto.hooks import install_here
from timers.auto.learned import LEARNED_VARIABLE
from timers.worker.environment import SERVER_PID_VARIABLE, SOCKET_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "DIRECTORY_VARIABLE",
    "MEETING_VARIABLE",
    "NAMESPACE",
    "USER_HOOK_VARIABLE",
    "node_file",
    "note_reaps",
    "setup_worker",
]

DIRECTORY_VARIABLE = "TIMERS_RAY_DIRECTORY"
"""Where the sockets of a job's watchdogs are, on each node."""
MEETING_VARIABLE = "TIMERS_RAY_MEETING"
"""The name of the actor that knows what was reaped."""
NAMESPACE = "timers"
USER_HOOK_VARIABLE = "TIMERS_RAY_SETUP"
"""The dotted name of the setup hook that the job itself has, called after ours."""
_NODE_CHARACTERS = 16
_LOOK_UP_SECONDS = 2.0
_MOST_NOTES = 3
_LONGEST_NOTE = 2000
_DIGITS = 10
_MARK = "timers"
"""An attribute of what stands in the place of a function of Ray's."""


def node_file(directory: str, node_id: str, kind: str) -> str:
    """Return the path of what the watchdog of a node has: its ``sock``, ``pipe``, ``pid`` ..."""
    return os.path.join(directory, f"{node_id[:_NODE_CHARACTERS]}.{kind}")


def setup_worker() -> None:
    """Have this worker of Ray watched by the watchdog of its node. For Ray's setup hook.

    Never raises for a reason of ours: without a watchdog the worker works as it would have. The
    job's own hook, if it named one, is called then, and may raise.
    """
    try:
        _setup()
    except Exception as error:  # noqa: BLE001  # the job goes on
        sys.stderr.write(f"timers: no timers in process {os.getpid()}: {error}\n")
    own = os.environ.get(USER_HOOK_VARIABLE)
    if own:
        module, _, name = own.rpartition(".")
        getattr(importlib.import_module(module), name)()


def _setup() -> None:
    chosen = os.environ.get(AUTO_VARIABLE, "off")
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if not directory or chosen in ("", "off"):
        return
    ray: Any = sys.modules["ray"]
    node = ray.get_runtime_context().get_node_id()
    os.environ[SOCKET_VARIABLE] = node_file(directory, node, "sock")
    os.environ[LEARNED_VARIABLE] = node_file(directory, node, "learned")
    try:
        with open(node_file(directory, node, "pid"), encoding="ascii") as file:
            os.environ[SERVER_PID_VARIABLE] = str(int(file.read(_DIGITS)))
    except (OSError, ValueError):  # it has not started yet
        pass
    install_here(chosen)
    note_reaps()


class _Here(threading.local):
    is_asking = False


_here = _Here()


def note_reaps() -> None:
    """Have errors of Ray that stem from a reap say so, in a note (:meth:`BaseException.add_note`).

    Ray makes them where results are fetched, and knows no more than that a process has ended. So
    what was reaped is asked for there, when there is such an error. In the driver and in workers;
    idempotent.

    Not in a thread that runs an event loop, nor in those of Ray itself, by which ``await``
    and ``ObjectRef.future()`` get their results: what is asked for there would be waited for
    in vain.
    """
    worker: Any = importlib.import_module("ray._private.worker").Worker
    deserialize = worker.deserialize_objects
    if vars(deserialize).get(_MARK):
        return

    @functools.wraps(deserialize)
    def deserialize_objects(
        self: Any, objects: Sequence[Any], references: Sequence[Any], *more: Any, **keywords: Any
    ) -> Any:
        values = deserialize(self, objects, references, *more, **keywords)
        for value, reference in zip(values, references, strict=False):
            if isinstance(value, Exception):
                _add_notes(value, reference)
        return values

    vars(deserialize_objects)[_MARK] = True
    worker.deserialize_objects = deserialize_objects


def _add_notes(error: Exception, reference: Any) -> None:
    """Add what was reaped to an error, unless it is about something else. Never raises."""
    if _here.is_asking:
        return
    _here.is_asking = True
    try:
        ray: Any = sys.modules["ray"]
        kinds = (ray.exceptions.WorkerCrashedError, ray.exceptions.RayActorError)
        if not isinstance(error, kinds) or not _may_block():
            return
        actor = getattr(error, "actor_id", None) or ""
        meeting = ray.get_actor(os.environ.get(MEETING_VARIABLE, ""), namespace=NAMESPACE)
        asked = meeting.reaped.remote(reference.task_id().hex(), actor)
        for said in ray.get(asked, timeout=_LOOK_UP_SECONDS)[-_MOST_NOTES:]:
            error.add_note(_line(said))
    except Exception:  # noqa: BLE001, S110  # the error is the user's, with a note or without
        pass
    finally:
        _here.is_asking = False


def _line(said: object) -> str:
    """Return what another process said as one line that no terminal obeys."""
    text = str(said)[:_LONGEST_NOTE]
    return "".join(character if character.isprintable() else "?" for character in text)


def _may_block() -> bool:
    if isinstance(threading.current_thread(), threading._DummyThread):  # noqa: SLF001  # has no other name
        return False
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio is None or asyncio.get_running_loop() is None
    except RuntimeError:  # none runs
        return True
