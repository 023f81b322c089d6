"""Those who ask the service over HTTP: some as they should, some slowly, some rudely."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING

from support.command import get

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Visitors"]

_PATHS = ("/metrics", "/timers", "/-/healthy", "/-/ready", "/")
_OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
_SLOW_AT_ONCE = 8
_COUNTED = re.compile(r"^(timers_\w+_total)\{.*\} (\S+)", re.MULTILINE)


class Visitors:
    """Come with :meth:`start` and have left after :meth:`stop`; may come again.

    :param address: ``HOST:PORT`` of the service.
    :param seed: of what the slow ones do.
    """

    def __init__(self, address: str, seed: int) -> None:
        self.answers: Counter[str] = Counter()
        """By path; each was a 200."""
        self.complaints: Counter[str] = Counter()
        """What went wrong, in words."""
        self.slow_ones = 0
        self._address = address
        self._chance = random.Random(seed)
        self._totals: dict[str, float] = {}
        self._leave = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Let them in."""
        self._leave.clear()
        self._threads = [
            threading.Thread(target=self._complaining, args=(visit,), daemon=True)
            for visit in (self._ask, self._dawdle)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """See them out, with all their connections."""
        self._leave.set()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _complaining(self, visit: Callable[[], None]) -> None:
        try:
            visit()
        except Exception as error:  # noqa: BLE001  # whatever it is belongs into the account
            self.complaints[f"{type(error).__name__}: {error}"] += 1

    def _ask(self) -> None:
        for number in count():
            for path in _PATHS:
                headers = {"Accept": _OPEN_METRICS} if number % 2 and path == "/metrics" else {}
                status, text, _ = get(self._address, path, headers)
                if (status, path) == (503, "/-/healthy"):
                    # On a machine that is overloaded it may be true for once.
                    status, text, _ = get(self._address, path, headers)
                if status == 200:
                    self.answers[path] += 1
                else:
                    self.complaints[f"{path} answered {status}"] += 1
                if path == "/metrics":
                    self._never_falls(text)
            if self._leave.wait(0.25):
                return

    def _never_falls(self, text: str) -> None:
        totals: Counter[str] = Counter()
        for name, value in _COUNTED.findall(text):
            totals[name] += float(value)  # type: ignore[assignment]  # a Counter adds floats as well
        for name, value in self._totals.items():
            if totals[name] < value:
                self.complaints[f"{name} fell from {value} to {totals[name]}"] += 1
        self._totals = dict(totals)

    def _dawdle(self) -> None:
        slow: list[tuple[float, socket.socket]] = []
        while not self._leave.wait(0.2):
            now = time.monotonic()
            for until, client in list(slow):
                if now > until:
                    slow.remove((until, client))
                    self._go(client)
            if len(slow) < _SLOW_AT_ONCE:
                slow.append((now + self._chance.uniform(1, 30), self._come()))
                self.slow_ones += 1
        for _, client in slow:
            self._go(client)

    def _come(self) -> socket.socket:
        host, _, port = self._address.rpartition(":")
        client = socket.create_connection((host, int(port)), timeout=30)
        client.setblocking(False)
        request = f"GET /metrics HTTP/1.1\r\nHost: {self._address}\r\n\r\n".encode()
        sent = self._chance.choice((b"", b"G", request[:30], request * 50, b"\x16\x03\x01" * 9))
        with contextlib.suppress(OSError):
            client.send(sent)  # and does not read the answer
        return client

    def _go(self, client: socket.socket) -> None:
        if self._chance.random() < 0.5:  # without a goodbye: RST (socket(7), SO_LINGER)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
