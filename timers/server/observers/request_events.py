"""Events and counts of requests that say no more than torch's do.

What they do not say (how long the timer was for, how long the scope ran) is not made up: durations
are NaN, which no log line and no histogram shows.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from timers.events import Outcome, ReapFailed, TimerExpired, TimerInfo, WorkerKilled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timers.events import WorkerInfo
    from timers.server.statistics import Statistics

__all__ = ["expired_event", "reaped_event"]


def expired_event(
    statistics: Statistics, run_id: str, worker: WorkerInfo, request: Any, signal: int = 0
) -> TimerExpired:
    """Count the expiry of the timer that ``request`` started, now, and return its event.

    :param request: with torch's ``scope_id`` and ``expiration_time``.
    :param signal: 0 where the request does not say.
    """
    now, timer = time.time(), _timer_info(request, signal)
    lateness = max(0.0, now - timer.expiration_time)
    statistics.expired(timer.scope_id, lateness, active=False)
    return TimerExpired(
        timestamp=now,
        run_id=run_id,
        worker=worker,
        timer=timer,
        elapsed_seconds=math.nan,
        lateness_seconds=lateness,
    )


def reaped_event(
    statistics: Statistics,
    run_id: str,
    worker: WorkerInfo,
    request: Any,
    signal: int = 0,
    *,
    held: Sequence[Any] = (),
    outcome: Outcome = Outcome.KILLED,
    retry: tuple[int, float] = (1, 0.0),
) -> WorkerKilled | ReapFailed:
    """Count how the reap of a worker came out, now, and return its event.

    :param request: of the timer that decided.
    :param held: the requests of every timer that it held, where they are known.
    :param retry: for a reap that failed: which attempt it was, and the seconds until the next.
    """
    timer = _timer_info(request, signal)
    statistics.reaped(timer.scope_id, outcome)
    common: dict[str, Any] = {
        "timestamp": time.time(),
        "run_id": run_id,
        "worker": worker,
        "timer": timer,
        "elapsed_seconds": math.nan,
        "signal": signal,
        "outcome": outcome,
    }
    if outcome.failed:
        attempt, seconds = retry
        return ReapFailed(**common, attempt=attempt, retry_in_seconds=seconds)
    return WorkerKilled(**common, timers=tuple((_timer_info(each, 0), math.nan) for each in held))


def _timer_info(request: Any, signal: int) -> TimerInfo:
    return TimerInfo(
        scope_id=str(request.scope_id),
        expiration_time=float(request.expiration_time),
        after_seconds=math.nan,
        signal=signal,
    )
