"""Several hosts on this machine: network namespaces with addresses and names of their own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Network", "network"]


class Network:
    """Nodes on one switch. Node N has the name ``nodeN``, the address ``10.77.0.N+1``, one link."""

    def __init__(self) -> None:
        self._prefix = f"tt{secrets.token_hex(2)}"
        self.switch = f"{self._prefix}s"
        self.nodes: list[str] = []
        self._hosts = ""
        """Path of the file in which every node finds the addresses of all."""

    def add(self) -> int:
        """Add a node; return its number."""
        number = len(self.nodes)
        node = f"{self._prefix}n{number}"
        _ip("netns", "add", node)
        self.nodes.append(node)
        cable = ("link", "add", "eth0", "netns", node, "type", "veth")
        _ip(*cable, "peer", "name", f"port{number}", "netns", self.switch)
        _ip("-n", self.switch, "link", "set", f"port{number}", "master", "bridge", "up")
        _ip("-n", node, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", node, "link", "set", device, "up")
        return number

    @staticmethod
    def address(number: int) -> str:
        """Return the address of a node."""
        return f"10.77.0.{number + 1}"

    def on(self, number: int) -> list[str]:
        """Return the words before a command that is to run on a node."""
        become = f'hostname node{number} && mount --bind {self._hosts} /etc/hosts && exec "$@"'
        return [
            *("ip", "netns", "exec", self.nodes[number]),
            *("unshare", "--uts", "--mount", "sh", "-c", become, "sh"),
        ]

    def cut_off(self, number: int) -> None:
        """Pull the plug of a node."""
        _ip("-n", self.switch, "link", "set", f"port{number}", "down")

    def close(self) -> None:
        """Remove all of it, as far as it is there."""
        for name in (*self.nodes, self.switch):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._hosts)

    def open(self) -> None:
        """Make the switch.

        :raises OSError: that takes more than this machine has.
        :raises subprocess.CalledProcessError: the kernel refuses.
        """
        if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
            raise OSError("it takes root, iproute2 and unshare(1)")
        descriptor, self._hosts = tempfile.mkstemp(prefix="timers-hosts-")
        with os.fdopen(descriptor, "w") as file:
            file.write("127.0.0.1 localhost\n")
            file.writelines(f"{self.address(number)} node{number}\n" for number in range(32))
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "bridge", "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def network(nodes: int) -> Iterator[Network]:
    """Make a network of so many nodes; skip the test where that is not possible, fail it in CI."""
    found = Network()
    try:
        found.open()
        for _ in range(nodes):
            found.add()
    except (OSError, subprocess.CalledProcessError) as error:
        found.close()
        why = getattr(error, "stderr", b"") or b""
        reason = f"no network namespaces: {why.decode() or error}"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    try:
        yield found
    finally:
        found.close()
