"""An event as one flat dictionary: what a log line holds, and what JSON over HTTP shows.

Works on the fields an event class declares, so a new event class needs no change here; what it is
in one sentence, ``message``, is made of them. Values are ``str`` that any encoder takes, ``int``,
``float``, ``bool`` and, for stacks and lists of timers, lists of small dictionaries. What is not
known (``None``, or not a number) is left out.

Decision: ``frame`` is the innermost call in the user's own code, which is the line to look at; the
innermost call of all, when that is inside a library, is ``innermost_frame``.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from timers.events import Event, TimerInfo, WorkerInfo
from timers.stacks.take import StackDump

from .message import message
from .samples.frames import frame_line, innermost_own, process_frames
from .samples.threads import thread_that_matters
from .sinks.trace_ids import trace_ids
from .untrusted import encodable, replaced

if TYPE_CHECKING:
    from collections.abc import Iterable

    from timers.stacks.take import ThreadStack

__all__ = ["stack_fields", "timestamp", "to_fields"]


def to_fields(event: Event, *, run_id: str = "", host: str = "") -> dict[str, Any]:
    """Flatten ``event``.

    :param run_id: used when the event has none.
    :param host: left out when empty.
    """
    flat: dict[str, Any] = {
        "event": event.name,
        "level": event.level,
        "timestamp": timestamp(event.timestamp),
        "run_id": event.run_id or run_id or None,
        "host": host or None,
    }
    own: dict[str, Any] = {}
    for field in dataclasses.fields(event):
        value = getattr(event, field.name)
        if isinstance(value, WorkerInfo):
            flat |= _worker(value)
        elif isinstance(value, TimerInfo):
            flat |= _timer(value)
        elif isinstance(value, StackDump):
            own |= stack_fields(value, getattr(event, "timer", None))
        elif hasattr(value, "to_dict"):
            own |= value.to_dict(tree=False)
        elif field.name == "timers":
            own |= _timers(value, has_own=hasattr(event, "timer"))
        elif field.name not in ("timestamp", "run_id", "severity"):  # which is the level
            own[field.name] = _plain(value)
    flat |= own
    known = {name: value for name, value in flat.items() if _known(value)}
    known["message"] = message(known)
    return replaced(known, str, encodable)  # type: ignore[no-any-return]  # a dictionary stays one


def timestamp(seconds: float) -> str:
    """Write wall-clock ``seconds`` as RFC 3339, in UTC: ``2026-01-31T12:00:00.000001Z``."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def stack_fields(dump: StackDump, timer: TimerInfo | None) -> dict[str, Any]:
    """Flatten a stack dump: all threads in ``stack``, the one that holds the timer first."""
    stuck = thread_that_matters(dump, timer.thread if timer else None)
    frames = process_frames(stuck.frames) if stuck else ()
    own = innermost_own(frames)
    ordered = sorted(dump.threads, key=lambda thread: thread is not stuck)
    return {
        "frame": frame_line(own) if own else None,
        "innermost_frame": frame_line(frames[0]) if frames and frames[0] is not own else None,
        "stack_method": dump.method,
        "stack_seconds": round(dump.seconds, 6),
        "stack_error": dump.error,
        **{f"process_{name}": _plain(value) for name, value in dump.facts._asdict().items()},
        **dict(dump.extras),
        "stack": [_thread(thread) for thread in ordered] or None,
    }


def _worker(worker: WorkerInfo) -> dict[str, Any]:
    return {
        "worker_pid": worker.pid,
        "rank": worker.rank,
        "local_rank": worker.local_rank,
        "restart_count": worker.restart_count,
        "worker_name": worker.name,
    }


def _timer(timer: TimerInfo) -> dict[str, Any]:
    trace = trace_ids(timer.traceparent, timer.span_id)
    return {
        "scope_id": timer.scope_id,
        "after_seconds": timer.after_seconds,
        "expiration_time": round(timer.expiration_time, 6),
        "signal": timer.signal,
        "thread": timer.thread,
        "trace_id": trace.trace_id if trace else None,
        "span_id": trace.span_id if trace else None,
        "parent_span_id": trace.parent_id if trace else None,
    }


def _thread(thread: ThreadStack) -> dict[str, Any]:
    named = {"thread": thread.thread, "name": thread.name}
    return {
        **{name: value for name, value in named.items() if value is not None},
        "holds_gil": thread.holds_gil,
        "active": thread.active,
        "frames": [frame_line(frame) for frame in thread.frames],
    }


def _timers(entries: Iterable[tuple[Any, ...]], *, has_own: bool) -> dict[str, Any]:
    """Describe the timers that were open, the youngest (the innermost scope) first."""
    ordered = sorted(entries, key=lambda entry: entry[-1])
    if not ordered:
        return {}
    flat = {"timers_open": len(ordered), "timers": [_open_timer(*entry) for entry in ordered]}
    *worker, innermost, age = ordered[0]
    if worker:
        return flat  # Timers of several workers: no single one of them is the event's own.
    if len(ordered) == 1:
        del flat["timers"]  # It would say the same again.
    if has_own:
        return flat
    # Without its signal, which was never sent and would read as the cause of the exit.
    return {**_timer(innermost), "signal": None, "elapsed_seconds": round(age, 6), **flat}


def _open_timer(*entry: Any) -> dict[str, Any]:
    *worker, timer, age = entry
    flat = {
        "worker_pid": worker[0].pid if worker else None,
        "scope_id": timer.scope_id,
        "after_seconds": timer.after_seconds,
        "elapsed_seconds": round(age, 6),
    }
    return {name: value for name, value in flat.items() if _known(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (tuple, list, frozenset, set)):
        return [_plain(item) for item in value] or None
    if isinstance(value, float):
        return round(value, 6)
    if value is None or isinstance(value, (bool, int)):
        return value
    return str(value) or None


def _known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
