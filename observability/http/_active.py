"""The timers that run at this moment, as plain data for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from observability.untrusted import printable

if TYPE_CHECKING:
    from timers.server.server import WatchdogServer
    from timers.server.watchdog import RunningTimer

__all__ = ["active_timers"]


def active_timers(server: WatchdogServer, limit: int) -> tuple[int, list[dict[str, Any]]]:
    """How many timers run, and the ``limit`` of them that are closest to their deadline.

    Each has ``worker_pid``, ``scope_id``, ``age_seconds`` (since its block was entered),
    ``after_seconds``, ``remaining_seconds`` (negative once overdue), ``used_ratio`` and
    ``expired``; where known also ``rank``, ``local_rank``, ``restart_count`` and ``thread``.
    """
    total = sum(scope.active for scope in list(server.statistics.scopes.values()))
    return total, [_describe(each) for each in server.running_timers(limit)]


def _describe(running: RunningTimer) -> dict[str, Any]:
    worker, timer = running.worker, running.timer
    used = timer.after_seconds - running.remaining_seconds
    known = {
        "worker_pid": worker.pid,
        "rank": worker.rank,
        "local_rank": worker.local_rank,
        "restart_count": worker.restart_count,
        "thread": timer.thread,
        "scope_id": printable(timer.scope_id),
        "age_seconds": running.age_seconds,
        "after_seconds": timer.after_seconds,
        "remaining_seconds": running.remaining_seconds,
        "used_ratio": max(0.0, used) / timer.after_seconds if timer.after_seconds > 0 else None,
        "expired": running.expired,
    }
    return {name: value for name, value in known.items() if value is not None}
