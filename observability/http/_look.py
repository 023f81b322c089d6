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


class Looks:
    """Samples the workers of one server on request, one request at a time.

    :param server: whose workers.
    :param host: this machine's name.
    """

    def __init__(self, server: WatchdogServer, host: str) -> None:
        self._server = server
        self._host = host
        self._under_way = False

    async def now(self) -> dict[str, Any] | None:
        """Return a hang report of this moment, as the page has it; None while one is made.

        :raises LookupError: no worker is known.
        """
        if self._under_way:
            return None
        pids = [each.pid for each in self._server.known_workers() if isinstance(each.pid, int)]
        if not pids:
            raise LookupError("no worker is known")
        self._under_way = True
        try:
            return await asyncio.wrap_future(self._on_a_thread(pids))
        finally:
            self._under_way = False

    def _on_a_thread(self, pids: list[int]) -> Future[dict[str, Any]]:
        # Not the loop's own threads: the end of the service would wait for them.
        done: Future[dict[str, Any]] = Future()
        done.set_running_or_notify_cancel()  # whoever does not wait for it cannot stop it, either

        def look() -> None:
            try:
                views, size = sample_job(pids, timeout=LOOK_SECONDS, host=self._host)
                done.set_result(as_shown(analyse(views, world_size=size), time.time()))
            except Exception as error:  # noqa: BLE001  # raised where it is waited for
                done.set_exception(error)

        threading.Thread(target=look, name="timers-look", daemon=True).start()
        return done
