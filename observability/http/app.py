"""What is answered over HTTP: metrics, health, running timers and the last reaps.

Another page is one more :class:`starlette.routing.Route` in :func:`make_app`.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from observability.untrusted import printable, replaced

from ._auth import Guard
from ._look import look
from ._page import page
from ._scrapes import Scrapes
from .health import PROBE_SECONDS, is_watching_async

if TYPE_CHECKING:
    from starlette.requests import Request

    from observability.sinks.metrics import Metrics
    from observability.sinks.recent import RecentReaps
    from timers.server.server import WatchdogServer
    from timers.server.watchdog import RunningTimer

__all__ = ["View", "make_app"]

LOOK_HEADER = "X-Timers-Look"
DEFAULT_LIMIT = 1000
"""How many timers ``/timers`` shows, unless asked for another number."""
MAX_LIMIT = 10_000


@dataclass(slots=True, kw_only=True)
class View:
    """What the pages show."""

    server: WatchdogServer
    metrics: Metrics
    reaps: RecentReaps
    run_id: str
    host: str
    is_ready: bool = False
    """Whether workers can connect: set between the server's start and its stop."""
    scrapes: Scrapes = field(default_factory=Scrapes)
    look_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by a look at the workers: one at a time."""

    def reaps_so_far(self) -> int:
        """Count the workers that were ended; attempts that failed are not among them."""
        scopes = list(self.server.statistics.scopes.values())
        return sum(
            count
            for scope in scopes
            for outcome, count in scope.reaps.items()
            if not outcome.failed
        )


def make_app(view: View, *, token: str | None = None, local_only: bool = False) -> Starlette:
    """Make the ASGI application.

    :param token: with ``local_only``, who may ask: see :class:`._auth.Guard`.
    """

    async def index(_request: Request) -> Response:  # a plain function would get a thread
        return page()

    async def metrics(request: Request) -> Response:
        reaps = view.reaps_so_far()  # before, so that no more is claimed than was answered
        body, content_type = view.metrics.exposition(request.headers.get("accept"))
        view.scrapes.came(_name(request), reaps, timeout=_scrape_timeout(request))
        return Response(body, headers={"Content-Type": content_type})

    async def healthy(_request: Request) -> Response:
        if await is_watching_async(view.server):
            return _text("the watchdog is watching")
        return _text(f"the watchdog has made no progress for {PROBE_SECONDS:g} s", 503)

    async def ready(_request: Request) -> Response:
        if view.is_ready:
            return _text("workers can connect")
        return _text("the timer server does not run", 503)

    return Starlette(
        routes=[
            Route("/", index),
            Route("/metrics", metrics),
            Route("/-/healthy", healthy),
            Route("/-/ready", ready),
            Route("/timers", partial(_running, view)),
            Route("/look", partial(_look, view), methods=["POST"]),
        ],
        middleware=[Middleware(Guard, token=token, local_only=local_only)],
    )


async def _running(view: View, request: Request) -> Response:
    text = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not re.fullmatch("[0-9]{1,6}", text) or int(text) > MAX_LIMIT:
        return _text(f"limit={text[:40]!r}: must be a number from 0 to {MAX_LIMIT}", 400)
    return _json(_timers(view, int(text)))


async def _look(view: View, request: Request) -> Response:
    # A page of somebody else can make a browser post, but not with a header of its own.
    if LOOK_HEADER not in request.headers:
        return _text(f"needs the header {LOOK_HEADER}: 1", 403)
    if view.look_lock.locked():
        return _text("somebody looks already", 429)
    async with view.look_lock:
        try:
            return _json(await look(view.server, view.host))
        except LookupError as error:
            return _text(str(error), 404)


def _timers(view: View, limit: int) -> dict[str, Any]:
    statistics = view.server.statistics
    scopes = list(statistics.scopes.values())
    return {
        "run_id": view.run_id,
        "host": view.host,
        "timestamp": time.time(),
        "workers": statistics.workers,
        "active": sum(scope.active for scope in scopes),
        "totals": {
            "acquires": sum(scope.acquires for scope in scopes),
            "releases": sum(scope.releases for scope in scopes),
            "expirations": sum(scope.expirations for scope in scopes),
            "reaps": view.reaps_so_far(),
            "rejected": sum(statistics.rejected.values()),
        },
        "timers": [_describe(each) for each in view.server.running_timers(limit)],
        "reaps": view.reaps.records(),
        "hang": view.reaps.hang,
    }


def _describe(running: RunningTimer) -> dict[str, Any]:
    """Describe an open timer; ``rank``, ``thread`` and the like only where they are known.

    ``age_seconds`` is since its block was entered, ``remaining_seconds`` is negative once overdue.
    """
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


def _name(request: Request) -> str:
    host = request.client.host if request.client else ""
    return f"{host} {request.headers.get('user-agent', '')[:100]}"


def _scrape_timeout(request: Request) -> float | None:
    """Return what Prometheus says it waits for the answer, in seconds; None for all others."""
    said = request.headers.get("x-prometheus-scrape-timeout-seconds", "")
    return float(said) if re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,9})?", said) else None


def _text(message: str, status: int = 200) -> Response:
    return PlainTextResponse(f"{message}\n", status, {"Cache-Control": "no-store"})


def _json(value: Any) -> Response:
    body = json.dumps(replaced(value, float, _finite), allow_nan=False)
    return Response(
        body.encode("ascii"),
        media_type="application/json",
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
    )


def _finite(value: float) -> float | None:
    """Replace what JSON does not have, NaN and infinities, by null."""
    return value if math.isfinite(value) else None
