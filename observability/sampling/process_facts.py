"""What a stuck process has open: the file or the peer that it may be waiting for.

Only this module imports psutil. All of it is best effort: a process that is gone, or not ours to
look at, has nothing open as far as this module can tell.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable

    from timers.stacks.take import StackDump

__all__ = ["add_open_files"]

_UNKNOWN = (psutil.Error, OSError, ValueError, OverflowError, RuntimeError)
_MOST = 20
"""How many of each are told: enough to recognize what a worker is busy with."""


def add_open_files(dump: StackDump) -> StackDump:
    """Return ``dump`` with the open files and connections of its process, as they are now.

    Reads /proc; on a process with thousands of descriptors that takes milliseconds.
    """
    facts = dump.facts
    with contextlib.suppress(*_UNKNOWN):
        paths = (file.path for file in psutil.Process(dump.pid).open_files())
        facts = facts._replace(open_paths=_first(paths))
    with contextlib.suppress(*_UNKNOWN):
        found = psutil.Process(dump.pid).net_connections("all")
        peers = (_told(each.raddr, each.status) for each in found if each.raddr)
        facts = facts._replace(connections=_first(peers))
    return dataclasses.replace(dump, facts=facts)


def _told(peer: object, status: str) -> str:
    if isinstance(peer, str):  # a Unix socket's path
        return peer
    host, port = peer.ip, peer.port  # type: ignore[attr-defined]  # psutil's addr, which has no name
    return f"{host}:{port} {status}" if ":" not in host else f"[{host}]:{port} {status}"


def _first(entries: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entries))[:_MOST]
