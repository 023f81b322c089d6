"""A client that notes what automatic blocks ask of it, or fails as without a server."""

from __future__ import annotations

import timers

__all__ = ["NotingClient"]


class NotingClient(timers.TimerClient):
    """Notes each acquire as ``+SCOPE`` and each release as ``-SCOPE``."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fails = False

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        del expiration_time
        if self.fails:
            raise OSError("no server")
        self.calls.append(f"+{scope_id}")

    def release(self, scope_id: str) -> None:
        self.calls.append(f"-{scope_id}")
