"""Where the asyncio tasks are that are inside a block, for whoever explains this worker.

A suspended coroutine is on no thread's stack: from outside one sees the event loop, waiting. Under
``timers run`` a worker that enters a block with ``async with`` answers on a Unix socket in the
directory of ``TIMERS_RECORDER_DIR``, from a thread of its own, where its tasks are suspended. While
the loop waits that thread gets to run; a loop that computes has its line on its stack. Nothing here
raises: that nobody can ask must not cost the worker its work.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from timers.linux.notes import DIRECTORY_VARIABLE

if TYPE_CHECKING:
    from socket import socket

__all__ = ["entered", "left"]

_MOST_TASKS = 20
_MOST_FRAMES = 64
_TRIES = 3
_SEND_SECONDS = 1.0

_open: WeakKeyDictionary[Any, tuple[int, list[str]]] = WeakKeyDictionary()
"""The thread of each task, and the scopes of its open blocks, the innermost last."""
_served_by = 0
"""Pid of the process whose thread answers: a forked child has to start its own."""
_listener: socket | None = None


def entered(scope_id: str) -> None:
    """Note that the current task enters a block; answer from now on. Never raises an Exception."""
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if not directory:
        return
    with contextlib.suppress(Exception):
        task = _current_task()
        if task is not None:
            known = _open.get(task)
            if known is None:
                known = _open[task] = (threading.get_native_id(), [])
            known[1].append(scope_id)
            if _served_by != os.getpid():
                _serve(directory)


def left(scope_id: str) -> None:
    """Note that the current task has left a block. Never raises an Exception."""
    if not _open:
        return
    with contextlib.suppress(Exception):
        known = _open.get(_current_task())
        if known is not None:
            known[1].remove(scope_id)


def _current_task() -> Any:
    asyncio = sys.modules.get("asyncio")  # not for the workers of other event loops
    return None if asyncio is None else asyncio.current_task()


def _serve(directory: str) -> None:
    global _served_by, _listener  # noqa: PLW0603  # one for each process
    from socket import AF_UNIX, socket  # noqa: PLC0415  # "import timers" should be cheap

    _served_by = os.getpid()
    if _listener is not None:
        _listener.close()  # that of the process that this one was forked from
    listener = socket(AF_UNIX)
    # By its descriptor: the path of a socket is at most 107 bytes long (unix(7)).
    opened = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        path = f"/proc/self/fd/{opened}/{os.getpid()}.tasks"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # of a process that had this pid before
        listener.bind(path)
    finally:
        os.close(opened)
    listener.listen()
    _listener = listener
    threading.Thread(target=_answer, args=(listener,), name="timers-tasks", daemon=True).start()


def _answer(listener: socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # out of descriptors, or closed
        with contextlib.suppress(Exception), connection:
            connection.settimeout(_SEND_SECONDS)
            connection.sendall(json.dumps(_tasks()).encode())


def _tasks() -> list[dict[str, Any]]:
    for _ in range(_TRIES):
        try:
            known = list(_open.items())
        except RuntimeError:  # another thread has added one
            continue
        found = [(task, thread, list(scopes)) for task, (thread, scopes) in known if scopes]
        return [
            {"thread": thread, "scopes": scopes, "frames": _frames(task)}
            for task, thread, scopes in found[:_MOST_TASKS]
            if not task.done()
        ]
    return []


def _frames(task: Any) -> list[tuple[str, str, int]]:
    """Return function, file and line of each coroutine that the task is in, the innermost first."""
    frames: list[tuple[str, str, int]] = []
    while task is not None and len(frames) < _MOST_FRAMES:
        at = task.get_coro()
        while at is not None and len(frames) < _MOST_FRAMES:
            frame = _of(at, "frame")
            if frame is not None:
                code = frame.f_code
                frames.append((code.co_qualname, code.co_filename, frame.f_lineno))
            at = _of(at, "await") or getattr(at, "gi_yieldfrom", None)
        awaited = getattr(task, "_fut_waiter", None)  # what asyncio's own call graph reads, too
        task = awaited if hasattr(awaited, "get_coro") else None
    return frames[::-1]


def _of(coroutine: Any, what: str) -> Any:
    names = (f"{kind}_{what}" for kind in ("cr", "gi", "ag"))
    return next((found for name in names if (found := getattr(coroutine, name, None))), None)
