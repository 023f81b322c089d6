"""What each worker is blocked on, and which processes have the other end."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from observability.samples.types import Link
from timers.bounded import left
from timers.linux import links, procfs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_MOST_PROCESSES = 2000


def links_of(threads: Mapping[int, int], *, until: float) -> dict[int, Link]:
    """Find out what processes are blocked on, by pid; those on nothing known are left out.

    :param threads: native id of the thread that matters, by pid.
    :param until: the moment of ``time.monotonic()`` by which to be done.
    """
    found = _on_locks(set(threads))
    blocked = {
        pid: opened
        for pid, thread in threads.items()
        if pid not in found and (opened := _opened(pid, thread)) is not None
    }
    if not blocked:
        return found
    ends = links.open_descriptors(_relevant(threads), timeout=left(until) / 2)
    for pid, opened in blocked.items():
        if left(until) > 0:
            found[pid] = _on_descriptor(pid, opened, ends)
    return found


def _on_locks(pids: set[int]) -> dict[int, Link]:
    found = {}
    for lock in links.locks():
        for pid in pids.intersection(lock.waiting):
            path = _path_of(pid, lock)
            what = f"the lock {path}" if path else "a lock on a file"
            found[pid] = Link(what, (lock.holder,) if lock.holder > 0 else (), is_lock=True)
    return found


def _path_of(pid: int, lock: links.Lock) -> str | None:
    for entry, path in links.descriptors(pid):
        with contextlib.suppress(OSError):
            opened = os.stat(f"/proc/{pid}/fd/{entry}")
            if (opened.st_dev, opened.st_ino) == (lock.device, lock.inode):
                return path
    return None


def _opened(pid: int, thread: int) -> str | None:
    descriptor = links.blocked_descriptor(pid, thread)
    return None if descriptor is None else links.opened(pid, descriptor)


def _relevant(pids: Iterable[int]) -> Sequence[int]:
    """Those processes and all others of their users: the other end may be a stranger's."""
    first = dict.fromkeys(pids)
    users = {procfs.owners(pid) for pid in first}
    with contextlib.suppress(OSError):
        for entry in os.listdir("/proc"):
            if len(first) >= _MOST_PROCESSES:
                break
            if entry.isdigit() and procfs.owners(int(entry)) in users:
                first.setdefault(int(entry))
    return list(first)


def _on_descriptor(pid: int, opened: str, ends: Mapping[str, Sequence[links.Opened]]) -> Link:
    if opened.startswith("pipe:"):
        holders = [each.pid for each in ends.get(opened, ()) if each.writes]
        return Link("a pipe", _others(pid, holders), own_end=pid in holders)
    if not opened.startswith("socket:"):
        return Link(opened)
    if str(links.remote_port(pid, opened)) == procfs.environment(pid).get("MASTER_PORT"):
        # Who serves it answers as soon as somebody has set the key: it is not waited for.
        return Link("a key of the job's store")
    peer = links.peer_of(pid, opened)
    if peer is None:
        return Link("a socket")
    if not peer.startswith("socket:"):
        return Link(f"a connection to {peer}")
    holders = [each.pid for each in ends.get(peer, ())]
    return Link("a socket", _others(pid, holders), own_end=pid in holders)


def _others(pid: int, holders: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(holders) - {pid}))
