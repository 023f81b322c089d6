"""The samples of one host, grouped: equal stacks and equal recorders once, with whose they are.

A host of eight ranks that wait in one operation sends one stack and one state of the recorder.
Reading takes nothing on trust: see :mod:`._messages`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from observability.fields import stack_fields
from observability.hang.json import extra_fields, view_from
from observability.samples.threads import thread_that_matters
from observability.untrusted import number, printable, replaced
from timers.events import TimerInfo
from timers.linux.procfs import ProcessFacts

from ._messages import (
    MAX_RANK,
    MAX_SUMMARY,
    Presence,
    RefusedError,
    packed,
    parse,
    ranks_from,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from observability.samples.types import WorkerView
    from timers.stacks.take import StackDump

__all__ = ["Summary", "from_text", "to_text"]

_LEVELS = ((60, 6, True), (30, 2, True), (12, 1, False), (4, 1, False))
"""Frames of a stack, threads, and whether child processes are described: the first that fits."""
_MOST_MEMBERS = 1024
_MOST_PID = 1 << 31
_MOST_SCOPE = 500
_MOST_RANKS_WRITTEN = 1 << 20
"""Ranks that all recorders of a summary may list together: a range is short, they are not."""
_NOT_SENT = (
    "frame",
    "innermost_frame",
    "stack_seconds",
    "process_cpu_seconds",
    "process_resident_bytes",
)


class _Described(NamedTuple):
    member: dict[str, Any]
    """Who it is."""
    stack: dict[str, Any]
    """Where it is, equal for all that are in the same place."""
    recorder: dict[str, Any] | None
    children: list[int]
    """Their pids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What one host has handed over."""

    presence: Presence
    views: tuple[WorkerView, ...]
    world_size: int | None = None


def to_text(presence: Presence, views: Sequence[WorkerView], world_size: int | None) -> str:
    """Write a summary of at most :data:`._messages.MAX_SUMMARY` characters.

    What does not fit is left out from the outside in: outer calls, other threads, child processes;
    of hosts with thousands of workers the last ones.
    """
    kept = [_described(view) for view in views[:_MOST_MEMBERS]]
    for level in _LEVELS:
        text = _text(presence, kept, world_size, level)
        if len(text) <= MAX_SUMMARY:
            return text
    while len(text) > MAX_SUMMARY and kept:
        kept = kept[: len(kept) * MAX_SUMMARY // len(text) - 1]
        text = _text(presence, kept, world_size, _LEVELS[-1])
    return text


def _text(
    presence: Presence,
    described: Sequence[_Described],
    world_size: int | None,
    level: tuple[int, int, bool],
) -> str:
    stacks: dict[str, int] = {}
    recorders: dict[str, int] = {}
    members = []
    for each in described:
        stack = json.dumps(_cut(each.stack, *level))
        recorder = json.dumps(each.recorder)
        found = {
            **each.member,
            "stack": stacks.setdefault(stack, len(stacks)),
            "recorder": None
            if each.recorder is None
            else recorders.setdefault(recorder, len(recorders)),
            "children": each.children if level[2] else [],
        }
        members.append({name: found[name] for name in found if found[name]} | _zeros(found))
    return packed(
        {
            **presence.to_plain(),
            "world_size": world_size,
            "stacks": [json.loads(stack) for stack in stacks],
            "recorders": [json.loads(recorder) for recorder in recorders],
            "members": members,
        }
    )


def _cut(stack: dict[str, Any], frames: int, threads: int, children: bool) -> dict[str, Any]:
    cut = [{**each, "frames": each["frames"][:frames]} for each in stack.get("stack", ())]
    found = {**stack, "stack": cut[:threads]} if cut else dict(stack)
    if not children:
        found.pop("children", None)
    return found


def _zeros(member: dict[str, Any]) -> dict[str, Any]:
    """What is 0 and means something."""
    return {name: 0 for name in ("rank", "local_rank", "stack", "recorder") if member[name] == 0}


def _member(view: WorkerView) -> dict[str, Any]:
    worker = view.worker
    return {
        "rank": worker.rank,
        "local_rank": worker.local_rank,
        "pid": worker.pid,
        "restarts": worker.restart_count,
        "scope": view.scope_id and view.scope_id[:_MOST_SCOPE],
        "expired": view.expired,
        "after": view.after_seconds,
        "elapsed": view.elapsed_seconds and round(view.elapsed_seconds, 3),
        "gone": view.gone and view.gone[:_MOST_SCOPE],
        "unclean": view.unclean,
        "threaded": view.thread is not None,
    }


def _described(view: WorkerView) -> _Described:
    """Describe a worker, with what differs from one to the other and says nothing left out."""
    if view.dump is None:
        return _Described(_member(view), {}, None, [])
    frames, threads, _ = _LEVELS[0]
    stack = _plain_stack(_trimmed(view.dump, view.thread, frames, threads))
    extra = extra_fields(view)
    recorder = extra.pop("recorder", None)
    found = extra.pop("children", [])
    pids = [int(child["pid"]) for child in found]
    number_of = {pid: position for position, pid in enumerate(pids, 1)}
    if found:
        stack["children"] = [
            {name: value for name, value in child.items() if name not in _NOT_SENT}
            | {"pid": number_of[child["pid"]], "parent": number_of.get(child.get("parent"), 0)}
            for child in found
        ]
    return _Described(_member(view), stack | extra, recorder, pids)


def _trimmed(dump: StackDump, thread: int | None, frames: int, threads: int) -> StackDump:
    first = thread_that_matters(dump, thread)
    ordered = sorted(dump.threads, key=lambda each: each is not first)[:threads]
    return replace(
        dump,
        threads=tuple(
            replace(
                each,
                thread=0 if each.thread == dump.pid else position,
                frames=each.frames[:frames],
            )
            for position, each in enumerate(ordered, 1)
        ),
        facts=ProcessFacts(
            state=dump.facts.state,
            wait_channel=dump.facts.wait_channel,
            system_call=dump.facts.system_call,
        ),
        error=dump.error and dump.error[:_MOST_SCOPE],
        extras=(),
    )


def _plain_stack(dump: StackDump) -> dict[str, Any]:
    first = dump.threads[0].thread if dump.threads else None
    # In the order in which they are: with the one first that holds the timer.
    timer = TimerInfo(scope_id="", expiration_time=0, after_seconds=0, signal=0, thread=first)
    fields = stack_fields(dump, timer)
    return {name: fields[name] for name in fields if fields[name] and name not in _NOT_SENT}


def from_text(text: str) -> Summary:
    """Read a summary.

    :raises RefusedError: it is none, or goes beyond a bound.
    """
    plain = parse(text, MAX_SUMMARY)
    presence = Presence(
        host=text_of(plain, "host"),
        watchdog=text_of(plain, "watchdog"),
        ranks=ranks_from(plain.get("ranks"), most=_MOST_MEMBERS),
    )
    stacks, recorders = _objects(plain, "stacks"), _objects(plain, "recorders")
    members = _objects(plain, "members")
    if len(members) > _MOST_MEMBERS:
        raise RefusedError("too_many", f"{len(members)} workers, at most {_MOST_MEMBERS}")
    if sum(map(_ranks_written, recorders)) > _MOST_RANKS_WRITTEN:
        raise RefusedError("out_of_range", "ranks of recorders")
    size = plain.get("world_size")
    return Summary(
        presence=presence,
        views=tuple(_view(each, presence.host, stacks, recorders) for each in members),
        world_size=size if _is_count(size) and 0 < size <= MAX_RANK + 1 else None,
    )


def _objects(plain: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = plain.get(name)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise RefusedError("wrong_type", f"{name} is no list of objects")
    return found


def _ranks_written(recorder: dict[str, Any]) -> int:
    groups = recorder.get("groups")
    count = 0
    for group in groups if isinstance(groups, list) else ():
        ranks = group.get("ranks") if isinstance(group, dict) else None
        # In the order of the group, so that a range may come twice.
        for word in ranks.split(",") if isinstance(ranks, str) else ():
            count += len(ranks_from(word, most=_MOST_RANKS_WRITTEN))
            if count > _MOST_RANKS_WRITTEN:
                return count
    return count


def _view(
    member: dict[str, Any],
    host: str,
    stacks: Sequence[dict[str, Any]],
    recorders: Sequence[dict[str, Any]],
) -> WorkerView:
    rank, pid = member.get("rank"), member.get("pid")
    if rank is not None and not (_is_count(rank) and rank <= MAX_RANK):
        raise RefusedError("out_of_range", "a rank")
    if not (_is_count(pid) and pid < _MOST_PID) and not isinstance(pid, str):
        raise RefusedError("wrong_type", "a pid")
    stack = _at(stacks, member.get("stack"), "stack") or {}
    fields = {
        **_renumbered(stack, member.get("children")),
        "stack": _threads(stack.get("stack"), pid),
        "thread": _thread_of(member, stack, pid),
        "worker_pid": pid,
        "rank": rank,
        "local_rank": member.get("local_rank"),
        "restart_count": member.get("restarts"),
        "host": host,
        "scope_id": member.get("scope"),
        "expired": member.get("expired") is True,
        "after_seconds": number(member.get("after")),
        "elapsed_seconds": number(member.get("elapsed")),
        "recorder": _at(recorders, member.get("recorder"), "recorder"),
    }
    try:
        view = view_from(replaced(fields, str, printable))
    except RecursionError:
        raise RefusedError("out_of_range", "depth of a stack") from None
    gone = member.get("gone")
    if isinstance(gone, str) and gone:
        unclean = member.get("unclean") is True
        return replace(view, samples=(), gone=printable(gone[:_MOST_SCOPE]), unclean=unclean)
    return view if stack else replace(view, samples=())


def _at(found: Sequence[dict[str, Any]], position: object, name: str) -> dict[str, Any] | None:
    if position is None:
        return None
    if not _is_count(position) or position >= len(found):
        raise RefusedError("out_of_range", f"no such {name}")
    return found[position]


def _thread_of(member: dict[str, Any], stack: dict[str, Any], pid: object) -> object:
    """Return the number of the thread that holds the timer: the first, where one is known to."""
    threads = _threads(stack.get("stack"), pid)
    return threads[0]["thread"] if threads and member.get("threaded") is True else None


def _threads(threads: object, pid: object) -> list[dict[str, Any]]:
    """Give the main thread the number that it has, and the others one that none has."""
    return [
        {**each, "thread": pid if each.get("thread") == 0 else _MOST_PID + position}
        for position, each in enumerate(threads if isinstance(threads, list) else ())
        if isinstance(each, dict)
    ]


def _renumbered(stack: dict[str, Any], pids: object) -> dict[str, Any]:
    children = stack.get("children")
    if not isinstance(children, list) or not isinstance(pids, list):
        return {name: value for name, value in stack.items() if name != "children"}
    known: dict[object, int] = {
        position: pid for position, pid in enumerate(pids, 1) if _is_count(pid)
    }
    renumbered = [
        {
            **child,
            **{
                name: known.get(child[name], 0) if _is_count(child.get(name)) else 0
                for name in ("pid", "parent")
            },
        }
        for child in children
        if isinstance(child, dict)
    ]
    return {**stack, "children": renumbered}


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
