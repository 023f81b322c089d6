"""Who scrapes, how often, and what each has seen: so that no reap ends unseen.

A job that ends with a reap takes its service with it, and the last sample of Prometheus would be
the one from before. Each scraper is known by its address and its name; more than one (a pair of
Prometheus servers for availability) each have to come once more.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

_MOST = 16
"""Scrapers that are remembered; the one that came last longest ago is forgotten."""
_LONGEST_SECONDS = 300.0
"""Scrapers that come less often than this are not waited for any longer."""


@dataclass(slots=True)
class _Scraper:
    last: float
    interval: float | None
    """Seconds between its last two scrapes; before the second what it says it may take."""
    reaps: int


class Scrapes:
    """The scrapers of one service. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scrapers: dict[str, _Scraper] = {}

    def came(
        self, who: str, reaps: int, *, timeout: float | None = None, now: float | None = None
    ) -> None:
        """Note a scrape that was answered.

        :param who: tells scrapers apart.
        :param reaps: how many reaps the answer had.
        :param timeout: seconds that Prometheus said it waits for the answer; it never scrapes
            more often than that.
        :param now: by time.monotonic(), by default the moment of the call.
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            known = self._scrapers.pop(who, None)
            interval = timeout if known is None else now - known.last
            self._scrapers[who] = _Scraper(now, interval, reaps)
            while len(self._scrapers) > _MOST:
                del self._scrapers[next(iter(self._scrapers))]

    def waits_for(self, reaps: int, *, now: float | None = None) -> float:
        """Return for how many seconds to wait for one more scrape by each; 0 when all have come.

        The bound is twice the interval of the scraper that has not seen ``reaps`` reaps yet. One
        that came a single time and is not Prometheus was a person, and nobody waits for it.
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            waits = [
                min(2 * each.interval, _LONGEST_SECONDS) - (now - each.last)
                for each in self._scrapers.values()
                if each.interval is not None and each.reaps < reaps
            ]
        return max(0.0, max(waits, default=0.0))
