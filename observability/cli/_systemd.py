"""What systemd and a service say to each other: sd_listen_fds(3), sd_notify(3).

A socket that systemd hands over outlives the service: while the service is restarted, workers
connect and send; the next one reads it.

Decision: by hand. The protocols are three variables and one datagram, and the package for them has
had no release in years.
"""

from __future__ import annotations

import contextlib
import os
import socket

from observability.settings import SettingsError
from timers.transport.socket_path import Listener

_FIRST_FD = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def activated_socket() -> Listener | None:
    """Take the socket that was handed over to this process; None when there is none.

    The variables that say so are removed: they are not for whoever is started from here.

    :raises SettingsError: what was handed over is not a Unix socket of sequential packets.
    """
    pid, count = (os.environ.get(name, "") for name in _VARIABLES[:2])
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()) or count == "0":
        return None
    for name in _VARIABLES:
        os.environ.pop(name, None)
    found = None
    for fd in range(_FIRST_FD, _FIRST_FD + int(count)):
        os.set_inheritable(fd, False)
        listener = socket.socket(fileno=fd)
        if found is None and _fits(listener):
            found = listener
        else:
            listener.detach()  # not ours to close
    if found is None:
        raise SettingsError(
            "the socket that systemd handed over is of another kind: the .socket unit needs"
            " ListenSequentialPacket= and the path of the socket"
        )
    return Listener(found, os.fsdecode(found.getsockname()))


def _fits(listener: socket.socket) -> bool:
    return (
        listener.family == socket.AF_UNIX
        and listener.type == socket.SOCK_SEQPACKET
        and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    )


def notify(state: str) -> None:
    """Send ``state``, such as ``READY=1``, to systemd, if it started this process.

    Never blocks, never raises.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with (
        contextlib.suppress(OSError, ValueError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        sender.setblocking(False)
        # unix(7): an abstract name, which systemd writes with "@", begins with a zero byte.
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.send(state.encode())


def watchdog_seconds() -> float | None:
    """Return how often systemd wants to hear of this process (sd_watchdog_enabled(3)), or None."""
    period = os.environ.get("WATCHDOG_USEC", "")
    process = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not (period.isascii() and period.isdigit() and int(period) > 0):
        return None
    return int(period) / 1e6 if process == str(os.getpid()) else None
