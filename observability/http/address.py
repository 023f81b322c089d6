"""``HOST:PORT``, as people write it and as sockets want it."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

__all__ = ["DEFAULT_PORT", "Address"]

DEFAULT_PORT = 9464
"""Where OpenTelemetry's exporters for Prometheus listen, too."""
_MAX_PORT = 65535
_BARE_HOST = re.compile(r"\[[0-9a-fA-F:.]+\]|(?=.*[a-zA-Z.])[a-zA-Z0-9._-]+")


class Address(NamedTuple):
    """Where an HTTP server listens."""

    host: str
    """A name or an IP address; an IPv6 one without brackets."""
    port: int
    """0 for any free one."""

    def __str__(self) -> str:
        """``HOST:PORT``, which :meth:`parse` reads."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only processes of this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``HOST:PORT``, ``[IPV6]:PORT``, ``PORT`` (on 127.0.0.1) or ``HOST`` (port 9464).

        :raises ValueError: it is none of them; the message says why.
        """
        if _BARE_HOST.fullmatch(text):
            text = f"{text}:{DEFAULT_PORT}"
        host, colon, port = text.rpartition(":")
        if not colon:
            host = "127.0.0.1"
        elif host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:9464")
        if not host:
            raise ValueError(f"{text!r}: the host is missing, as in 127.0.0.1:9464")
        if not (port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
            raise ValueError(f"{text!r}: the port must be a number from 0 to {_MAX_PORT}")
        return cls(host, int(port))
