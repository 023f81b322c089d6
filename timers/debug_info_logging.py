"""What stuck workers were doing, logged before they are killed.

Differs from torch: its function of this name logs one line with the requests and takes no stack.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque

from .bounded import HANDOVER_SECONDS, left
from .stacks.dump import StackDump
from .stacks.take import take

__all__ = ["log_debug_info_for_expired_timers"]

_AT_ONCE = 8
_SHOWN_TIMERS = 20

logger = logging.getLogger(__name__)


def log_debug_info_for_expired_timers(
    run_id: str,
    expired_timers: dict[int, list[str]],
    *,
    timeout: float = 5.0,
    native: bool = False,
) -> dict[int, StackDump]:
    """Take the stacks of the workers whose timers expired, log each, and return them by pid.

    ``expired_timers`` has for each worker's pid its expired requests, strings as of
    ``FileTimerRequest.to_json()``. One record at WARNING for each worker, with the attributes
    ``run_id``, ``worker_pid``, ``expired_timers`` and ``stack_dump`` for handlers that want data.

    The stacks are taken in parallel, all of them together within ``timeout`` seconds (plus
    some tenths), whatever the tools, the workers and the logging handlers do; a record of a slow
    handler may come out later than the return. ``native`` is that of
    :func:`timers.stacks.take.take`.
    Never raises: what is no worker's pid is logged without a stack and is not in the answer.
    """
    until = time.monotonic() + max(0.0, timeout)
    dumps: dict[int, StackDump] = {}
    try:
        waiting = deque(expired_timers.items())
    except AttributeError:
        _log(run_id, None, expired_timers, None)
        return dumps
    rounds = -(-len(waiting) // _AT_ONCE) or 1

    def work() -> None:
        while True:
            try:
                worker, timers = waiting.popleft()
            except IndexError:  # all done
                return
            # Not isinstance(): True would pass for pid 1.
            if type(worker) is not int or worker <= 0:
                _log(run_id, worker, timers, None)
                continue
            share = min(timeout / rounds, left(until))
            dumps[worker] = dump = take(worker, timeout=share, native=native)
            _log(run_id, worker, timers, dump)

    pids = [worker for worker, _ in waiting if type(worker) is int and worker > 0]
    threads = [
        threading.Thread(target=work, name=f"stack dumps {number}", daemon=True)
        for number in range(min(len(waiting), _AT_ONCE))
    ]
    for thread in threads:
        with contextlib.suppress(RuntimeError):  # no more threads: those there are do the work
            thread.start()
    for thread in threads:
        if thread.ident is not None:
            # Half of what the caller grants: this returns what it has before it is given up.
            thread.join(left(until + HANDOVER_SECONDS / 2))
    finished = dict(dumps)
    return {
        pid: finished.get(pid)
        or StackDump(pid=pid, method="proc", error=f"not done within {timeout:g} s")
        for pid in pids
    }


def _log(run_id: object, worker: object, timers: object, dump: StackDump | None) -> None:
    # Whatever a handler raises is its own affair, not the worker's or the server's.
    with contextlib.suppress(Exception):
        shown = list(timers)[:_SHOWN_TIMERS] if isinstance(timers, (list, tuple)) else [timers]
        logger.warning(
            "Timers expired for run:[%s], worker %s: [%s]\n%s",
            run_id,
            worker,
            ", ".join(str(timer) for timer in shown),
            "no stack: not the id of a process" if dump is None else dump.render(),
            extra={
                "run_id": run_id,
                "worker_pid": worker,
                "expired_timers": timers,
                "stack_dump": dump,
            },
        )
