"""Tell systemd how the service is doing (sd_notify(3)).

Decision: by hand. The protocol is one datagram, and the package for it has had no release in years.
"""

from __future__ import annotations

import contextlib
import os
import socket

__all__ = ["notify", "watchdog_seconds"]


def notify(state: str) -> bool:
    """Send ``state``, such as ``READY=1``, to whoever started us; whether it could be sent.

    Does nothing when we were not started by systemd. Never blocks, never raises.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with contextlib.suppress(OSError, ValueError):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            # unix(7): an abstract name, which systemd writes with "@", begins with a zero byte.
            sender.connect("\0" + address[1:] if address.startswith("@") else address)
            sender.send(state.encode())
        return True
    return False


def watchdog_seconds() -> float | None:
    """How often systemd wants to hear from us (sd_watchdog_enabled(3)); None if it does not."""
    period = os.environ.get("WATCHDOG_USEC", "")
    process = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not (period.isascii() and period.isdigit() and int(period) > 0):
        return None
    return int(period) / 1e6 if process == str(os.getpid()) else None
