"""What a hang report needs to know of a worker, to and from the fields of ``stack dumped``.

The event as it is has one sample of a worker. Two more fields let reports of several hosts be
merged without the earlier samples and the recorder, which would not fit into a line:

``pace``
    what they showed, one of :class:`~observability.hang.types.Pace`;
``recorder``
    what the worker's Flight Recorder says of the operations under way, see
    :mod:`observability.recorder.json`;
``around``
    what tells a wait from work where its stack does not: ``line``, ``loop``, ``gpu``,
    ``in_driver``, ``mpi`` and ``blocked_on``, ``blocked_on_pids``;
``children``
    the processes it started, a list of ``pid``, ``parent``, ``command``, ``pace`` and the fields
    of a stack: ``process_state``, ``process_wait_channel``, ``stack`` and so on.

Reading accepts anything: a line may come from another version, or be cut.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from observability.fields import stack_fields
from observability.recorder.json import from_plain, to_plain
from observability.samples.types import (
    NOTHING_KNOWN,
    Descendant,
    Link,
    Loop,
    Pace,
    Sample,
    Source,
    Surroundings,
    WorkerView,
)
from observability.samples.worker import read
from observability.untrusted import items, number
from timers.events import WorkerInfo
from timers.linux.procfs import ProcessFacts
from timers.stacks.take import Frame, StackDump, ThreadStack

__all__ = ["extra_fields", "view_from"]

_FRAME = re.compile(r"(.+?):(\d{1,9}) (.*)", re.DOTALL)
MAX_CHILDREN = 8
MAX_CHILD_FRAMES = 12


def extra_fields(view: WorkerView, *, innocent: bool = False) -> dict[str, Any]:
    """Return the fields to add to the ``stack dumped`` of a worker, where they have a value.

    :param innocent: whether it waits for others: then its pace is not called stuck.
    """
    fields: dict[str, Any] = {}
    if view.samples:
        pace = read(view).pace
        if innocent and pace is Pace.STUCK:
            pace = Pace.WAITING
        if pace is not Pace.UNKNOWN:
            fields["pace"] = pace.value
    if view.recording is not None:
        fields["recorder"] = to_plain(view.recording)
    around = _around(view.surroundings)
    if around:
        fields["around"] = around
    children = [_child_fields(child) for child in view.descendants[:MAX_CHILDREN] if child.samples]
    if children:
        fields["children"] = children
    return fields


def _around(around: Surroundings) -> dict[str, Any]:
    source, link = around.source, around.link
    known = {
        "line": source.text if source else None,
        "loop": source.loop.value if source else None,
        "head": source.head if source else None,
        "gpu": around.gpu or None,
        "in_driver": around.in_driver,
        "mpi": around.mpi or None,
        "blocked_on": link.what if link else None,
        "blocked_on_pids": list(link.pids) if link and link.pids else None,
        "is_lock": link.is_lock or None if link else None,
    }
    return {name: value for name, value in known.items() if value or value is False}


def _around_from(value: object) -> Surroundings:
    if not isinstance(value, dict):
        return NOTHING_KNOWN
    line, what = _text(value.get("line")), _text(value.get("blocked_on"))
    loop = next((loop for loop in Loop if loop.value == value.get("loop")), Loop.NONE)
    in_driver = value.get("in_driver")
    numbers = map(_integer, items(value.get("blocked_on_pids"), int))
    return Surroundings(
        source=None if line is None else Source(line, loop, _text(value.get("head")) or ""),
        gpu=value.get("gpu") is True,
        in_driver=in_driver if isinstance(in_driver, bool) else None,
        mpi=value.get("mpi") is True,
        link=None
        if what is None
        else Link(
            what,
            tuple(number for number in numbers if number is not None),
            is_lock=value.get("is_lock") is True,
        ),
    )


def _child_fields(child: Descendant) -> dict[str, Any]:
    dump = child.samples[-1].dump
    # The main thread says what it waits for; of a deep stack the innermost calls do.
    threads = tuple(
        dataclasses.replace(thread, frames=thread.frames[:MAX_CHILD_FRAMES])
        for thread in dump.threads[:1]
    )
    view = WorkerView(worker=WorkerInfo(pid=child.pid), samples=child.samples, pace=child.pace)
    pace = read(view).pace
    known = {
        "pid": child.pid,
        "parent": child.parent,
        "command": child.command or None,
        "pace": None if pace is Pace.UNKNOWN else pace.value,
        **stack_fields(dataclasses.replace(dump, threads=threads), None),
    }
    return {name: value for name, value in known.items() if value is not None}


def view_from(fields: dict[str, Any]) -> WorkerView:
    """Read the worker of one ``stack dumped`` line."""
    pid = fields.get("worker_pid")
    expired = fields.get("expired")
    return WorkerView(
        worker=WorkerInfo(
            pid=pid if isinstance(pid, (int, str)) else "unknown",
            rank=_integer(fields.get("rank")),
            local_rank=_integer(fields.get("local_rank")),
            restart_count=_integer(fields.get("restart_count")),
            name=_text(fields.get("worker_name")),
        ),
        host=_text(fields.get("host")) or "",
        samples=(Sample(dump=_dump(fields, _integer(pid) or 0)),),
        scope_id=_text(fields.get("scope_id")),
        thread=_integer(fields.get("thread")),
        expired=expired if isinstance(expired, bool) else "scope_id" in fields,
        after_seconds=number(fields.get("after_seconds")),
        elapsed_seconds=number(fields.get("elapsed_seconds")),
        descendants=tuple(map(_child, items(fields.get("children"), dict))),
        pace=_pace(fields.get("pace")),
        recording=from_plain(fields.get("recorder")),
        surroundings=_around_from(fields.get("around")),
    )


def _child(fields: dict[str, Any]) -> Descendant:
    pid = _integer(fields.get("pid")) or 0
    return Descendant(
        pid=pid,
        parent=_integer(fields.get("parent")) or 0,
        samples=(Sample(dump=_dump(fields, pid)),),
        command=_text(fields.get("command")) or "",
        pace=_pace(fields.get("pace")),
    )


def _dump(fields: dict[str, Any], pid: int) -> StackDump:
    return StackDump(
        pid=pid,
        method=_text(fields.get("stack_method")) or "proc",
        threads=tuple(map(_thread, items(fields.get("stack"), dict))),
        facts=ProcessFacts(
            state=_text(fields.get("process_state")),
            wait_channel=_text(fields.get("process_wait_channel")),
            system_call=_text(fields.get("process_system_call")),
            cpu_seconds=number(fields.get("process_cpu_seconds")),
            threads=_integer(fields.get("process_threads")),
        ),
        error=_text(fields.get("stack_error")),
    )


def _thread(entry: dict[str, Any]) -> ThreadStack:
    return ThreadStack(
        frames=tuple(map(_frame, items(entry.get("frames"), str))),
        thread=_integer(entry.get("thread")),
        name=_text(entry.get("name")),
        holds_gil=entry.get("holds_gil") is True,
        active=entry.get("active") is True,
    )


def _frame(line: str) -> Frame:
    found = _FRAME.fullmatch(line)
    if found is None:
        return Frame(line, "?", 0)
    return Frame(found[3], found[1], int(found[2]))


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _pace(value: object) -> Pace:
    if value == Pace.WAITING:
        return Pace.STUCK
    return next((pace for pace in Pace if pace == value), Pace.UNKNOWN)
