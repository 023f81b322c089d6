"""The pair over a :mod:`multiprocessing` queue, for workers that the server's process started.

Which queue: ``mp.Queue`` writes from a feeder thread, so a worker that hangs holding the GIL right
after a ``put`` may never have sent it. ``mp.SimpleQueue`` writes at once and has no such gap.

With both, a worker killed by anybody in the middle of a ``put`` leaves the queue's lock held: the
others stay in their next ``put``. Timers that run are kept all the same, so whoever gets stuck
there inside of a block is reaped at its deadline. The other pairs have no lock to leave.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .server.server import WatchdogServer
from .transport.mp_queue import MultiprocessingRequestQueue, QueueSource
from .worker.queue_client import LocalTimerClient

if TYPE_CHECKING:
    from .clock import Clock
    from .events import Observer
    from .server.reaper import BeforeKill, ReapPolicy

__all__ = ["LocalTimerClient", "LocalTimerServer", "MultiprocessingRequestQueue"]


class LocalTimerServer(WatchdogServer):
    """The server's side: watches the timers of its child processes, reaps stuck ones by SIGKILL.

    :param mp_queue: from which the requests come; this server is its only consumer.
    :param max_interval: seconds, more than 0: how often it wakes up when nothing happens. A reap
        does not wait for it: the server wakes up at each deadline.
    :param daemon: whether the watchdog thread lets the process exit.
    :param run_id: names the job in events and dumps.
    :param observer: receives every event; by default the ``timers.events`` logger.
    :param before_kill: the step before a kill; by default
        :func:`~timers.debug_info_logging.log_debug_info_for_expired_timers`.
    :param policy: bounds of the reap, process tree, who may be reaped.
    :param clock: where the time comes from; for tests.
    :raises timers.errors.UnsupportedPlatformError: not on Linux.

    Differs from torch: takes the worker's stacks before it kills; reaps at the deadline instead of
    up to ``max_interval`` later; never reaps itself, an ancestor, another user's process or a
    recycled pid.
    """

    def __init__(
        self,
        mp_queue: Any,
        max_interval: float = 60,
        daemon: bool = True,
        *,
        run_id: str = "",
        observer: Observer | None = None,
        before_kill: BeforeKill | None = None,
        policy: ReapPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        queue = MultiprocessingRequestQueue(mp_queue)
        super().__init__(
            [QueueSource(queue)],
            queue,
            address=f"{type(mp_queue).__module__}.{type(mp_queue).__name__}",
            max_interval=max_interval,
            daemon=daemon,
            run_id=run_id,
            observer=observer,
            before_kill=before_kill,
            policy=policy,
            clock=clock,
        )
