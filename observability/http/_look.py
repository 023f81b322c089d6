"""A look at all workers on request, before any deadline has passed."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from observability.explain.job import sample_job
from observability.hang.report import analyse
from observability.sinks.recent import as_shown

if TYPE_CHECKING:
    from timers.server.server import WatchdogServer

LOOK_SECONDS = 5.0
"""Bound of one look."""


async def look(server: WatchdogServer, host: str) -> dict[str, Any]:
    """Return a hang report of this moment on the workers of ``server``, as the page has it.

    :raises LookupError: no worker is known.
    """
    pids = [each.pid for each in server.known_workers() if isinstance(each.pid, int)]
    if not pids:
        raise LookupError("no worker is known")
    done: Future[dict[str, Any]] = Future()
    done.set_running_or_notify_cancel()  # whoever does not wait for it cannot stop it, either

    def sample() -> None:
        try:
            views, size = sample_job(pids, timeout=LOOK_SECONDS, host=host)
            done.set_result(as_shown(analyse(views, world_size=size), time.time()))
        except Exception as error:  # noqa: BLE001  # raised where it is waited for
            done.set_exception(error)

    # Not the loop's own threads: the end of the service would wait for them.
    threading.Thread(target=sample, name="timers-look", daemon=True).start()
    return await asyncio.wrap_future(done)
