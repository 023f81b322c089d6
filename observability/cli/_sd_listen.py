"""The socket that systemd hands over (sd_listen_fds(3)): it outlives the service.

While the service is restarted, workers connect and send; the next one reads it.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from observability.settings import SettingsError
from timers.transport.socket_path import Listener

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["activated_socket"]

_FIRST_FD = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def activated_socket(environ: MutableMapping[str, str] = os.environ) -> Listener | None:
    """Take the socket that was handed over to this process; None when there is none.

    The variables that say so are removed: they are not for whoever is started from here.

    :raises SettingsError: what was handed over is not a Unix socket of sequential packets.
    """
    pid, count = (environ.get(name, "") for name in _VARIABLES[:2])
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()) or count == "0":
        return None
    for name in _VARIABLES:
        environ.pop(name, None)
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
