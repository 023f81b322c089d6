"""The samples of one host, grouped: equal stacks and equal recorders once, with whose they are.

A host of eight ranks that wait in one operation sends one stack and one state of the recorder.
Reading takes nothing on trust: see :mod:`._messages`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, TypeVar

from observability.fields import stack_fields
from observability.hang.json import extra_fields, view_from
from observability.recorder.json import from_plain
from observability.samples.threads import thread_that_matters
from observability.samples.types import NOTHING_KNOWN, Pace, Sample, WorkerView
from observability.untrusted import number, printable, replaced
from timers.events import TimerInfo, WorkerInfo
from timers.linux.procfs import ProcessFacts

from ._messages import (
    MAX_RANK,
    MAX_SUMMARY,
    Presence,
    RefusedError,
    packed,
    parse,
    ranks_count,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from observability.recorder.types import Recording
    from observability.samples.types import Descendant
    from timers.stacks.take import StackDump

    T = TypeVar("T")

_LEVELS = ((60, 6, True), (30, 2, True), (12, 1, False), (4, 1, False))
"""Frames of a stack, threads, and whether child processes are described: the first that fits."""
_MOST_MEMBERS = 1024
_MOST_PID = 1 << 31
_MAIN = -1
"""The pid in the stacks that are read, and the number of the main thread in them: many workers
share them, so that they have that of none."""
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
_NOBODY = WorkerView(worker=WorkerInfo(pid=_MAIN))


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
        "name": worker.name and worker.name[:_MOST_SCOPE],
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
            | {
                "pid": number_of[child["pid"]],
                "parent": number_of.get(child.get("parent"), 0),
                "stack": [
                    {**each, "thread": 0 if each.get("thread") == child["pid"] else _MOST_PID}
                    for each in child.get("stack", ())
                ],
            }
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


class Reader:
    """Reads summaries. What many workers have in common is read once: of a large job nearly all."""

    def __init__(self) -> None:
        self._stacks: dict[str, WorkerView] = {}
        self._recorders: dict[str, Recording | None] = {}

    def read(self, text: str) -> Summary:
        """Read a summary.

        :raises RefusedError: it is none, or goes beyond a bound.
        """
        plain = parse(text, MAX_SUMMARY)
        presence = Presence.from_plain(plain, most_ranks=_MOST_MEMBERS)
        stacks, recorders = _objects(plain, "stacks"), _objects(plain, "recorders")
        members = _objects(plain, "members")
        if len(members) > _MOST_MEMBERS:
            raise RefusedError("too_many", f"{len(members)} workers, at most {_MOST_MEMBERS}")
        if sum(map(_ranks_written, recorders)) > _MOST_RANKS_WRITTEN:
            raise RefusedError("out_of_range", "ranks of recorders")
        views = [self._stack(stack) for stack in stacks]
        recordings = [self._recorder(recorder) for recorder in recorders]
        size = plain.get("world_size")
        return Summary(
            presence=presence,
            views=tuple(_view(each, presence.host, views, recordings) for each in members),
            world_size=size if _is_count(size) and 0 < size <= MAX_RANK + 1 else None,
        )

    def _stack(self, stack: dict[str, Any]) -> WorkerView:
        """Return a view of somebody who is there."""
        text = json.dumps(stack)
        if text not in self._stacks:
            try:
                safe = replaced(stack, str, printable)
            except RecursionError:
                raise RefusedError("out_of_range", "depth of a stack") from None
            found = safe.pop("stack", None)
            threads = [
                each
                for each in (found if isinstance(found, list) else ())
                if isinstance(each, dict)
            ]
            safe["stack"] = [
                {**each, "thread": _MAIN if each.get("thread") == 0 else _MOST_PID + position}
                for position, each in enumerate(threads)
            ]
            self._stacks[text] = view_from({**safe, "worker_pid": _MAIN})
        return self._stacks[text]

    def _recorder(self, recorder: dict[str, Any]) -> Recording | None:
        text = json.dumps(recorder)
        if text not in self._recorders:
            self._recorders[text] = from_plain(replaced(recorder, str, printable))
        return self._recorders[text]


def _objects(plain: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = plain.get(name)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise RefusedError("wrong_type", f"{name} is no list of objects")
    return found


def _ranks_written(recorder: dict[str, Any]) -> int:
    groups = recorder.get("groups")
    known = [each for each in groups if isinstance(each, dict)] if isinstance(groups, list) else []
    return sum(ranks_count(each["ranks"]) for each in known if isinstance(each.get("ranks"), str))


def _view(
    member: dict[str, Any],
    host: str,
    stacks: Sequence[WorkerView],
    recordings: Sequence[Recording | None],
) -> WorkerView:
    rank, pid = member.get("rank"), member.get("pid")
    if rank is not None and not (_is_count(rank) and rank <= MAX_RANK):
        raise RefusedError("out_of_range", "a rank")
    if not (_is_count(pid) and pid < _MOST_PID) and not isinstance(pid, str):
        raise RefusedError("wrong_type", "a pid")
    gone = _short(member.get("gone"))
    there = _at(stacks, member.get("stack"), "stack")
    recording = _at(recordings, member.get("recorder"), "recorder")
    there = _NOBODY if there is None or gone is not None else there
    threads = there.dump.threads if there.dump is not None else ()
    parent = pid if isinstance(pid, int) else 0
    return WorkerView(
        worker=WorkerInfo(
            pid=pid if isinstance(pid, int) else printable(pid[:_MOST_SCOPE]),
            rank=rank,
            local_rank=_count(member.get("local_rank")),
            restart_count=_count(member.get("restarts")),
            name=_short(member.get("name")),
        ),
        host=host,
        # The very same for all who are in one place, so that it is read once.
        samples=there.samples,
        scope_id=_short(member.get("scope")),
        thread=threads[0].thread if threads and member.get("threaded") is True else None,
        expired=member.get("expired") is True,
        after_seconds=number(member.get("after")),
        elapsed_seconds=number(member.get("elapsed")),
        recording=recording,
        gone=gone,
        unclean=gone is not None and member.get("unclean") is True,
        pace=there.pace if threads else Pace.UNKNOWN,
        surroundings=there.surroundings if threads else NOTHING_KNOWN,
        descendants=tuple(_children(there.descendants, parent, member.get("children")))
        if threads and there.descendants
        else (),
    )


def _children(found: Sequence[Descendant], parent: int, pids: object) -> Iterable[Descendant]:
    """Give the child processes the numbers that they have; 0 to those that have none."""
    known = [pid if _is_count(pid) else 0 for pid in pids] if isinstance(pids, list) else []
    for child in found:
        pid = known[child.pid - 1] if 0 < child.pid <= len(known) else 0
        above = known[child.parent - 1] if 0 < child.parent <= len(known) else parent
        [sample] = child.samples
        threads = tuple(
            replace(each, thread=pid) if each.thread == 0 else each for each in sample.dump.threads
        )
        dump = replace(sample.dump, pid=pid, threads=threads)
        yield replace(child, pid=pid, parent=above, samples=(Sample(dump=dump),))


def _at(found: Sequence[T], position: object, name: str) -> T | None:
    if position is None:
        return None
    if not _is_count(position) or position >= len(found):
        raise RefusedError("out_of_range", f"no such {name}")
    return found[position]


def _short(value: object) -> str | None:
    return printable(value[:_MOST_SCOPE]) if isinstance(value, str) and value else None


def _count(value: object) -> int | None:
    return value if _is_count(value) and value <= MAX_RANK else None


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
