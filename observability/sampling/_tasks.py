"""Ask a worker where its asyncio tasks are suspended, which is on no thread's stack."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from observability.samples.frames import library_path
from observability.samples.threads import thread_that_matters
from observability.untrusted import items
from timers.bounded import left
from timers.linux import procfs
from timers.linux.notes import DIRECTORY_VARIABLE
from timers.stacks.take import Frame
from timers.transport.socket_path import peer_credentials

if TYPE_CHECKING:
    from timers.stacks.take import StackDump

_MOST_BYTES = 1 << 18
_MOST_FRAMES = 64
_LOOPS = ("asyncio/", "uvloop/")


def with_task(dump: StackDump, thread: int | None, scope_id: str | None, until: float) -> StackDump:
    """Put the coroutines of the task that is in a block on top of the event loop that runs it.

    Returns ``dump`` itself where no event loop waits, or the worker does not say. It starts to say
    with its first ``async with`` (:mod:`timers.worker.slots.tasks`).

    :param thread: native id of the thread with the timer.
    :param scope_id: of the timer; without it the task is taken that is in any block.
    :param until: the moment of ``time.monotonic()`` by which to be done.
    """
    stack = thread_that_matters(dump, thread)
    if stack is None or not (library_path(stack.frames[0].file) or "").startswith(
        (*_LOOPS, "selectors.py")
    ):
        return dump
    if not any((library_path(frame.file) or "").startswith(_LOOPS) for frame in stack.frames):
        return dump
    with contextlib.suppress(OSError, ValueError, RecursionError):
        for task in _ask(dump.pid, until):
            frames = _frames(task, stack.thread, scope_id)
            if frames:
                fuller = replace(stack, frames=frames + stack.frames)
                threads = tuple(fuller if each is stack else each for each in dump.threads)
                return replace(dump, threads=threads)
    return dump


def _ask(pid: int, until: float) -> list[object]:
    directory = procfs.environment(pid).get(DIRECTORY_VARIABLE)
    if not directory:
        return []
    data = b""
    with socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(max(0.01, left(until)))
        # By its descriptor: the path of a socket is at most 107 bytes long (unix(7)).
        opened = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            asked.connect(f"/proc/self/fd/{opened}/{pid}.tasks")
        finally:
            os.close(opened)
        if peer_credentials(asked).pid != pid:
            return []  # A child has the socket of its parent, and does not answer.
        while len(data) < _MOST_BYTES and left(until) > 0 and (more := asked.recv(1 << 16)):
            data += more
    return items(json.loads(data), object)


def _frames(task: object, thread: int | None, scope_id: str | None) -> tuple[Frame, ...]:
    """Read what the worker says of one task, which may be anything; empty for another one."""
    if not isinstance(task, dict) or task.get("thread") != thread:
        return ()
    if not isinstance(task.get("scopes"), list):
        return ()
    if scope_id is not None and scope_id not in task["scopes"]:
        return ()
    return tuple(
        Frame(each[0], each[1], each[2])
        for each in items(task.get("frames"), list)[:_MOST_FRAMES]
        if [type(part) for part in each] == [str, str, int]
    )
